"""Wrong input: one sentence that names field, value and remedy, exit code 2, nothing written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airtune import Experiment
from tests.cli.conftest import quick

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("cell.bandwith_hz=1", "did you mean 'bandwidth_hz'?"),
        (
            "cell.bandwidth_hz=-5e6",
            "cell.bandwidth_hz is -5000000.0, but it must be a number above 0.",
        ),
        ("adapter.rank=4096", "adapter.rank is 4096, but it must be at most "),
        ("adapter.target_modules=[q_prj]", "did you mean 'q_proj'?"),
        ("model=no/such-model", "model is no/such-model, but it must be 'builtin', a folder"),
        ("data.train=missing.jsonl", "data.train is missing.jsonl"),
        ("data.train=broken.csv", "broken.csv"),
        ("data.train=table.csv", "completion"),
        ("clients.count=100000", "clients.count is 100000, but it must be at most 60"),
        ("data.partition={kind: column}", "name a column of the training data"),
        ("clients.devices=[galaxy-s52]", "did you mean 'galaxy-s25'?"),
        ("cohort.size=9", "cohort.size is 9, but it must be between 1 and the 3 clients"),
        ("tuner={use: full, block: 3}", "there are no keys here"),
        ("method=fedlore", "did you mean 'fedlora'"),
        ("planner=nowhere:Mine", "No module named 'nowhere'"),
        ("data.max_tokens=100000", "data.max_tokens is 100000, but it must be at most "),
        ("adapter.start=nowhere", "adapter.start is nowhere, but it must be a PEFT adapter folder"),
        ("charge_as=llama-3.1-70b", "memory of client 0 is "),
        ("charge_as=lama-3.1-70b", "charge_as is lama-3.1-70b"),
        ("clients.devices=[]", "clients.devices is [], but it must be a list of at least one"),
        ("training=null", "training is null, but it must be a mapping"),
        ("training.warmup_rounds=2", "at least 0 and below the number of rounds, 2."),
        ("training.schedule=cosin", "training.schedule is cosin, but it must be one of constant"),
        (
            "server.momentum=1",
            "server.momentum is 1, but it must be a number from 0 to below 1.",
        ),
        ("device=cuda", "device is cuda, but it must be auto or cpu on this machine, where torch"),
        ("rounds=100000", "rounds is 100000, but it must be a whole number from 1 to 99999."),
        ("data.train=half.jsonl", "half.jsonl, line 2 is not JSON"),
        ("cell={trace: none.csv, trace_bandwidth_hz: 1e7}", "none.csv"),
        ("cell={path_loss: log_distance, tx_power_dbm: 99}", "cell.tx_power_dbm is 99"),
    ],
)
def test_wrong_settings(airtune: Call, tmp_path: Path, setting: str, sentence: str) -> None:
    (tmp_path / "broken.csv").write_bytes(b"\xff\xfe\x00broken")
    (tmp_path / "table.csv").write_text("question,reply\na,b\nc,d\n")
    (tmp_path / "half.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"\n')
    before = sorted(tmp_path.iterdir())
    code, out, err = airtune("run", "--out", "run", *quick(setting))
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.startswith("airtune: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before


def test_client_out_of_reach_at_any_bandwidth(airtune: Call, tmp_path: Path) -> None:
    settings = quick(
        "deadline_s=5",
        "cell.tx_power_dbm=-80",
        "clients.count=1",
        "cell.unusual_values=[tx_power_dbm]",
    )
    code, _, err = airtune("run", "--out", "run", *settings)
    assert code == 2
    assert "cannot finish within 5 s at any share of the band" in err
    assert "more transmit power or a later deadline" in err
    assert not (tmp_path / "run").exists()


def test_empty_shard(airtune: Call, tmp_path: Path) -> None:
    settings = quick("clients.count=40", "data.partition={kind: dirichlet, concentration: 0.01}")
    code, _, err = airtune("run", "--out", "run", *settings)
    assert (code, err.count("\n")) == (2, 1)
    assert "short of 1 training rows" in err
    assert "raise data.partition.concentration" in err
    assert not (tmp_path / "run").exists()


def test_folder_in_use(airtune: Call, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    code, _, err = airtune("run", "--out", "full", *quick())
    assert (code, err.count("\n")) == (2, 1)
    assert "--out is full, but it must be a new or empty folder" in err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_two_processes_in_one_folder(airtune: Call, tmp_path: Path) -> None:
    import fcntl

    assert airtune("run", "--out", "run", "--quiet", *quick("rounds=1"))[0] == 0
    with (tmp_path / "run" / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        code, _, err = airtune("resume", "run")
    assert code == 2
    assert "run is in use by another airtune process" in err


def test_the_loser_of_a_race_touches_nothing(
    airtune: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs into one folder: the second starts while the first still loads."""
    from airtune.experiment import experiment
    from airtune.experiment.world import build_world

    seen: list[tuple[int, str, str]] = []

    def also_run_another(*arguments: Any, **options: Any) -> Any:
        if not seen:
            seen.append((0, "", ""))
            seen[0] = airtune("run", "--out", "a/run", *quick("rounds=1", "seed=1"))
        return build_world(*arguments, **options)

    monkeypatch.setattr(experiment, "build_world", also_run_another)
    assert airtune("run", "--out", "a/run", "--quiet", *quick("rounds=1"))[0] == 0
    assert seen[0][0] == 2
    assert "a/run is in use by another airtune process" in seen[0][2]
    assert "seed: 0\n" in (tmp_path / "a/run/experiment.yaml").read_text()


def test_runs_started_at_once_have_folders_of_their_own(
    airtune: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airtune.cli.run import next_free_folder

    monkeypatch.chdir(tmp_path)
    with next_free_folder(Path("runs")) as one, next_free_folder(Path("runs")) as two:
        assert (one, two) == (Path("runs/001"), Path("runs/002"))
        (two / "kept").touch()
    assert [path.name for path in Path("runs").iterdir()] == ["002"]
    Path("file").touch()
    code, _, err = airtune("run", "--out", "file/x", *quick())
    assert (code, err.count("\n")) == (2, 1)
    assert "--out is file/x" in err


def test_what_cannot_be_written_is_not_resumed(airtune: Call, tmp_path: Path) -> None:
    """A read-only disk, as the kernel reports it: the lock cannot be opened."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.yaml").write_text("rounds: 1\n")
    (tmp_path / "run" / ".lock").mkdir()
    code, _, err = airtune("resume", "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "run cannot be written (Is a directory): make it writable" in err


def test_full_disk(airtune: Call, tmp_path: Path, monkeypatch: Any) -> None:
    from airtune.federated.records import checkpoint
    from airtune.files import write_bytes_atomic

    written = []

    def full_at_the_third(path: Path, data: bytes) -> None:
        from airtune.errors import AirtuneError

        written.append(path)
        if len(written) == 3:
            raise AirtuneError(f"{path} cannot be written (No space left on device).")
        write_bytes_atomic(path, data)

    monkeypatch.setattr(checkpoint, "write_bytes_atomic", full_at_the_third)
    code, _, err = airtune("run", "--out", "run", *quick("rounds=3"))
    assert code == 2
    assert "No space left on device" in err
    monkeypatch.setattr(checkpoint, "write_bytes_atomic", write_bytes_atomic)
    assert airtune("resume", "run", "--quiet")[0] == 0
    assert len((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resume", "nowhere"], "RUN_DIR is nowhere, but it must be the folder of a run"),
        (["resume", "nowhere", "--rounds", "-3"], "--rounds is -3, but it must be a positive"),
        (
            ["resume", "nowhere", "--rounds", "\u00b2"],
            "--rounds is \u00b2, but it must be a positive",
        ),
        (["run", "--set", ""], "--set is empty, but it must be of the form key.subkey=value"),
        (["resume"], "Missing argument 'RUN_DIR': see `airtune resume --help`."),
        (["run", "--nope"], "No such option '--nope': see `airtune run --help`."),
        (["runn"], "No such command 'runn'"),
        (["generate", "nowhere", "--count", "0"], "0 is not in the range x>=1"),
        (["init", "afile/x.yaml"], "x.yaml cannot be written (Not a directory): make the folder"),
        (["channel", "afile/c.npz"], "FILE is afile/c.npz, but it must be in a folder that exists"),
        (["channel", "nodir/c.csv"], "it must be in a folder that exists: make nodir first."),
        (["channel", "c.csv", "--rounds", "125001"], "at most 125000 with 8 clients"),
        (["channel", "c.txt"], "a file name that ends in .csv or .npz"),
        (["plan", "afile", "--write-problem", "nodir/p.yaml"], "--write-problem is nodir/p.yaml"),
        (["plan", "afile", "--rounds", "2", "--trace", "nodir/t.csv"], "--trace is nodir/t.csv"),
        (["rank-search", "--out", "nodir/t.csv"], "--out is nodir/t.csv"),
        (["device", "measure", "--out", "nodir/d.yaml"], "--out is nodir/d.yaml"),
        (["model", "export", "builtin", "afile/y"], "DIR is afile/y (Not a directory)"),
        (["eval", "nowhere"], "the folder of a run"),
        (["export", "nowhere", "x"], "the folder of a run"),
        (["model", "export", "gpt5", "x"], "NAME is gpt5, but it must be 'builtin'"),
        (["run", "nowhere.yaml"], "EXPERIMENT.yaml is nowhere.yaml, but it must be a file"),
    ],
)
def test_wrong_arguments(
    airtune: Call, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    (tmp_path / "afile").write_text("x")
    code, out, err = airtune(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One quick run to be spoilt."""
    folder = tmp_path_factory.mktemp("runs") / "quick"
    Experiment.load(None, quick("rounds=1")[1::2]).run(folder)
    return folder


def test_what_is_asked_of_a_spoilt_run(finished: Path, airtune: Call, tmp_path: Path) -> None:
    """Each refused in one sentence, and the folder left as it was."""

    def refused(*arguments: str) -> str:
        before = {
            path: path.read_bytes() for path in sorted(Path("r").rglob("*.*")) if path.is_file()
        }
        code, out, err = airtune(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert all(path.read_bytes() == content for path, content in before.items())
        return err

    shutil.copytree(finished, "r")
    assert "--rounds is +99999, but it must be 99999 rounds in all at most" in refused(
        "resume", "r", "--rounds", "+99999"
    )
    assert "--rounds is 1, but it must be above the 1 rounds that are done: give +1 for" in refused(
        "resume", "r", "--rounds", "1"
    )
    (tmp_path / "afile").write_text("x")
    assert "DIR is afile/x (Not a directory)" in refused("export", "r", "afile/x")
    resolved = (finished / "experiment.yaml").read_text()
    Path("r/experiment.yaml").write_text(resolved.replace("rank: 2", "rank: 4"))
    assert "adapter.rank is 4 and was 2" in refused("resume", "r", "--rounds", "+1")
    Path("r/experiment.yaml").write_text("rounds: [\n")
    assert "experiment.yaml is not YAML" in refused("resume", "r")
    Path("r/experiment.yaml").write_text(resolved)
    shutil.rmtree("r/checkpoints")
    assert "No checkpoint in r/checkpoints is usable" in refused("export", "r", "new")
    assert not Path("new").exists()


def test_init_never_overwrites(airtune: Call, tmp_path: Path) -> None:
    assert airtune("init")[0] == 0
    (tmp_path / "experiment.yaml").write_text("rounds: 3\n")
    code, _, err = airtune("init")
    assert code == 2
    assert "experiment.yaml exists already" in err
    assert (tmp_path / "experiment.yaml").read_text() == "rounds: 3\n"


def test_model_export_loads(airtune: Call, tmp_path: Path) -> None:
    from airtune.tuning.base_model import load_base

    assert airtune("model", "export", "builtin", "copy")[0] == 0
    copy = load_base(str(tmp_path / "copy"))
    assert copy.config["model_type"] == "llama"
