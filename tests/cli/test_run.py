"""`airtune run` and what follows from its folder."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airtune import Experiment
from airtune.experiment.reading import read_config
from airtune.files import write_bytes_atomic
from tests.cli.conftest import quick

Call = Callable[..., tuple[int, str, str]]


def fingerprint(folder: Path) -> dict[str, str]:
    """What two runs of one seed must share: everything but real seconds and the report."""
    parts = ["rounds.jsonl", "summary.json", "report.html", "experiment.yaml"]
    for name in ("adapter", "model", "checkpoints"):
        parts += [f"{name}/{path.name}" for path in (folder / name).glob("*")]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in parts}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One quick run that several tests look at."""
    folder = tmp_path_factory.mktemp("runs") / "quick"
    settings = quick()[1::2]
    Experiment.load(None, settings).run(folder)
    return folder


def test_run_folder(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        ".lock", "adapter", "checkpoints", "clients", "environment.json", "experiment.yaml",
        "report.html", "rounds.jsonl", "summary.json", "timing.jsonl",
    }  # fmt: skip
    records = [json.loads(line) for line in (finished / "rounds.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == [1, 2]
    for record in records:
        assert record["latency_s"] == pytest.approx(record["planned_latency_s"], rel=1e-9)
        ends = [e["broadcast_s"] + e["compute_s"] + e["upload_s"] for e in record["clients"]]
        assert max(ends) == record["latency_s"]
        # The optimal split lets everybody finish together.
        assert min(ends) == pytest.approx(max(ends), rel=1e-6)
        assert sum(e["bandwidth_hz"] for e in record["clients"]) <= 3e6 * (1 + 1e-12)
        assert record["learning_rate"] == 0.0125
        assert all(entry["update_norm"] > 0.0 for entry in record["clients"])
        losses = [entry["train_loss"] for entry in record["clients"]]
        assert min(losses) <= record["train_loss"] <= max(losses)
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["channel"] == "log_distance path loss"
    config = read_config(finished / "experiment.yaml")
    assert config.rounds == 2
    assert config.threads == 1


def test_same_seed_same_bytes_and_another_seed_not(finished: Path, tmp_path: Path) -> None:
    Experiment.load(None, quick()[1::2]).run(tmp_path / "again")
    assert fingerprint(tmp_path / "again") == fingerprint(finished)
    Experiment.load(None, quick("seed=1")[1::2]).run(tmp_path / "other")
    assert (tmp_path / "other/rounds.jsonl").read_bytes() != (
        finished / "rounds.jsonl"
    ).read_bytes()


@pytest.mark.slow
def test_more_threads_change_no_draw(finished: Path, tmp_path: Path) -> None:
    """Draws are the same in every round. Losses are compared after the first step: an entry whose
    gradient is rounding alone may move by a step of AdamW either way, which then changes the loss
    by no more than that gradient times the step; later steps carry it on."""
    Experiment.load(None, quick("threads=2")[1::2]).run(tmp_path / "two")
    for one, two in zip(
        *(map(json.loads, (f / "rounds.jsonl").open()) for f in (finished, tmp_path / "two")),
        strict=True,
    ):
        if one["round"] == 1:
            assert one["train_loss"] == pytest.approx(two["train_loss"], abs=1e-5)
            assert one["test_loss"] == pytest.approx(two["test_loss"], abs=1e-5)
        for a, b in zip(one["clients"], two["clients"], strict=True):
            learned = ("train_loss", "update_norm")
            assert {k: a[k] for k in a if k not in learned} == {
                k: b[k] for k in b if k not in learned
            }


def test_workers_give_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    Experiment.load(None, quick("engine=workers")[1::2]).run(tmp_path / "workers")
    ours, theirs = fingerprint(tmp_path / "workers"), fingerprint(finished)
    for name in ("experiment.yaml", "report.html"):
        assert ours.pop(name) != theirs.pop(name), "they say which engine ran"
    assert ours == theirs


def test_longer_by_resuming_equals_longer_at_once(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "longer")
    Experiment.resume(tmp_path / "longer", more_rounds=1)
    Experiment.load(None, quick("rounds=3")[1::2]).run(tmp_path / "once")
    assert fingerprint(tmp_path / "longer") == fingerprint(tmp_path / "once")


@pytest.mark.parametrize("server", ["momentum", "adam"])
@pytest.mark.slow
def test_schedule_and_server_optimiser_resume_to_the_same_bytes(
    tmp_path: Path, server: str
) -> None:
    settings = quick(
        "rounds=3",
        f"server.optimizer={server}",
        "training.schedule=cosine",
        "training.warmup_rounds=1",
        "training.keep_optimizer=true",
    )[1::2]

    class Stop:
        def round_done(self, record: dict[str, Any]) -> None:
            if record["round"] == 2:
                raise KeyboardInterrupt

    Experiment.load(None, settings).run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        Experiment.load(None, settings).run(tmp_path / "stopped", Stop())
    Experiment.resume(tmp_path / "stopped")
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "whole")
    plain = Experiment.load(None, [*settings, "server.optimizer=none"]).run(tmp_path / "plain")
    assert (
        plain.records[-1]["test_loss"]
        != json.loads((tmp_path / "whole/rounds.jsonl").read_text().splitlines()[-1])["test_loss"]
    )


@pytest.mark.slow
def test_more_rounds_under_a_schedule_are_announced(airtune: Call) -> None:
    assert airtune("run", "--out", "s", *quick("training.schedule=linear"))[0] == 0
    code, out, _ = airtune("resume", "s", "--rounds", "+1")
    assert code == 0
    assert "follow the linear schedule of 3 rounds" in " ".join(out.split())


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_newest_checkpoint(
    finished: Path, tmp_path: Path, damage: str, airtune: Call
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(finished, folder)
    newest = folder / "checkpoints" / "round-00002.safetensors"
    if damage == "truncated":
        newest.write_bytes(newest.read_bytes()[:100])
    else:
        newest.unlink()
    code, out, _ = airtune("resume", folder)
    assert code == 0
    assert "Records after round 1 have no whole checkpoint; those rounds are made again." in out
    assert ("round-00002.safetensors cannot be read" in out) == (damage == "truncated")
    assert fingerprint(folder) == fingerprint(finished)


def test_adapter_in_plain_peft_gives_the_reported_loss(finished: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from airtune.experiment.world import build_world
    from airtune.tuning.base_model import model_location
    from airtune.tuning.evaluate import evaluate

    base = AutoModelForCausalLM.from_pretrained(model_location("builtin"))
    tuned = PeftModel.from_pretrained(base, finished / "adapter").eval()
    world = build_world(read_config(finished / "experiment.yaml"))
    reported = json.loads((finished / "summary.json").read_text())["final_test_loss"]
    assert evaluate(tuned, world.tests.batches()).loss == pytest.approx(reported, abs=1e-5)


def test_merged_model_gives_the_reported_loss(
    finished: Path, airtune: Call, tmp_path: Path
) -> None:
    from airtune.experiment.world import build_world
    from airtune.tuning.base_model import load_base
    from airtune.tuning.evaluate import evaluate

    code, out, _ = airtune("export", finished, tmp_path / "merged", "--merge")
    assert (code, out) == (0, f"Wrote the merged model to {tmp_path / 'merged'}.\n")
    merged = load_base(str(tmp_path / "merged"))
    world = build_world(read_config(finished / "experiment.yaml"))
    reported = json.loads((finished / "summary.json").read_text())["final_test_loss"]
    assert evaluate(merged.model, world.tests.batches()).loss == pytest.approx(reported, abs=1e-4)


def test_what_a_person_sees(airtune: Call, tmp_path: Path) -> None:
    code, out, err = airtune("run", "--out", "here", *quick())
    assert (code, err) == (0, "")
    for words in (
        "virtual time",
        "waited for",
        "The test loss",
        "less",
        "3 together, ",
        "ended together in",
        "A round's time was",
        "One test prompt",
        "reference",
        "Everything is in here (open report.html).",
    ):
        assert words in out
    page = (tmp_path / "here" / "report.html").read_text()
    before, _, after = page.partition("<script>")
    words = after.partition("</script>")[2]
    assert "http" not in before + words
    assert "Bandwidth, by client and round" in words


def test_json_is_json_and_quiet_is_quiet(airtune: Call, tmp_path: Path) -> None:
    code, out, _ = airtune("run", "--out", "a", "--json", *quick("rounds=1"))
    assert code == 0
    told = json.loads(out)
    # What was said of this machine is in environment.json and here, not in the summary.
    assert told.pop("notices") == ["Engine: sequential on cpu."]
    summary = json.loads((tmp_path / "a/summary.json").read_text())
    assert summary.pop("notices") == []
    assert told == summary
    assert airtune("run", "--out", "b", "--quiet", *quick("rounds=1")) == (0, "", "")


def test_folders_are_numbered(airtune: Call, tmp_path: Path) -> None:
    for name in ("001", "002"):
        assert airtune("run", "--quiet", *quick("rounds=1"))[0] == 0
        assert (tmp_path / "runs" / name / "summary.json").is_file()


def test_dry_run_writes_nothing(airtune: Call, tmp_path: Path) -> None:
    code, out, _ = airtune("run", "--dry-run", *quick())
    assert code == 0
    assert "First round as planned" in out
    assert "expected virtual time" in out
    assert list(tmp_path.iterdir()) == []
    code, out, _ = airtune("run", "--dry-run", "--json", *quick())
    assert json.loads(out)["clients"][2]["device"] == "pixel-9"


def test_planned_first_round_is_the_charged_one(finished: Path) -> None:
    preview = Experiment.load(None, quick()[1::2]).preview()
    record = json.loads((finished / "rounds.jsonl").read_text().splitlines()[0])
    assert preview["latency_s"] == record["latency_s"]
    for planned, charged in zip(preview["clients"], record["clients"], strict=True):
        for key in ("bandwidth_hz", "rate_bps", "compute_s", "upload_s", "uplink_bits"):
            assert planned[key] == charged[key]


def test_eval_and_generate(finished: Path, airtune: Call) -> None:
    code, out, _ = airtune("eval", finished, "--json")
    result = json.loads(out)
    summary = json.loads((finished / "summary.json").read_text())
    assert code == 0
    assert result["tuned"]["test_loss"] == summary["final_test_loss"]
    assert result["base"]["test_loss"] == summary["start_test_loss"]
    code, out, _ = airtune("generate", finished, "--count", 2, "--max-new-tokens", 4)
    assert (code, out.count("prompt  "), out.count("after  ")) == (0, 2, 2)
    code, out, _ = airtune("generate", finished, "--prompt", "name[The Mill]")
    assert (code, out.count("tuned  ")) == (0, 1)


def test_warm_start_begins_where_the_other_ended(finished: Path, tmp_path: Path) -> None:
    setting = f"adapter.start={finished / 'adapter'}"
    run = Experiment.load(None, quick(setting, "rounds=1")[1::2]).run(tmp_path / "warm")
    before = json.loads((finished / "summary.json").read_text())["final_test_loss"]
    assert run.summary["start_test_loss"] == pytest.approx(before, abs=1e-6)


def test_charging_as_another_model_says_so(airtune: Call, tmp_path: Path) -> None:
    devices = "clients.devices=[macbook-pro-m3-pro]"
    settings = quick("charge_as=gpt2", "rounds=1", devices)
    code, out, _ = airtune("run", "--out", "other", *settings)
    assert code == 0
    assert "Charged as gpt2: time, bits, energy and memory are those of training gpt2" in out
    assert "while the learning is that of builtin." in out
    assert (
        "Charged as gpt2: time, bits, energy and memory"
        in (tmp_path / "other/report.html").read_text()
    )
    record = json.loads((tmp_path / "other/rounds.jsonl").read_text())
    assert record["clients"][0]["uplink_bits"] == 32 * 294_912 + 8 * 80
    assert record["clients"][0]["flops"] > 2e10


def test_frame_and_five_lines(finished: Path) -> None:
    from airtune import Run

    run = Run.open(finished)
    frame = run.to_frame()
    assert list(frame["round"]) == [1, 2]
    clients = run.to_frame(clients=True)
    assert len(clients) == 6
    assert set(clients.columns) >= {"round", "client", "bandwidth_hz", "upload_s", "energy_j"}


@pytest.mark.slow
def test_stop_at_target_and_go_on(airtune: Call, tmp_path: Path) -> None:
    code, out, _ = airtune("run", "--out", "s", *quick("stop={target_loss: 99}"))
    assert code == 0
    assert "It stopped early: the test loss" in out
    assert len((tmp_path / "s/rounds.jsonl").read_text().splitlines()) == 1
    assert airtune("resume", "s", "--rounds", "+2")[0] == 0
    assert len((tmp_path / "s/rounds.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
def test_rounds_in_all_and_rounds_more(airtune: Call, tmp_path: Path) -> None:
    """`--rounds 2` is until two, `--rounds +2` is two more."""

    def lines() -> int:
        return (tmp_path / "s/rounds.jsonl").read_text().count("\n")

    assert airtune("run", "--out", "s", "--quiet", *quick("rounds=1"))[0] == 0
    assert airtune("resume", "s", "--quiet", "--rounds", "2")[0] == 0
    assert lines() == 2
    assert airtune("resume", "s", "--quiet", "--rounds", "+2")[0] == 0
    assert lines() == 4
    assert read_config(tmp_path / "s/experiment.yaml").rounds == 4


def test_help_is_quick_to_import() -> None:
    code = (
        "import sys, airtune.cli.main; "
        "heavy = {'torch', 'transformers', 'scipy', 'pydantic', 'plotly', 'pandas', 'numpy'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("killed_at", ["experiment.yaml", "environment.json"])
def test_killed_before_the_first_file_is_whole(
    finished: Path, tmp_path: Path, killed_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command, or a resume where the experiment is there, ends in the same bytes."""

    def die(path: Path, data: bytes) -> None:
        if path.name == killed_at:
            path.with_name(f".{path.name}.7.partial").write_bytes(data[:9])
            raise KeyboardInterrupt
        write_bytes_atomic(path, data)

    with monkeypatch.context() as patch:
        patch.setattr("airtune.files.write_bytes_atomic", die)
        with pytest.raises(KeyboardInterrupt):
            Experiment.load(None, quick()[1::2]).run(tmp_path / "run")
    if killed_at == "experiment.yaml":
        Experiment.load(None, quick()[1::2]).run(tmp_path / "run")
    else:
        Experiment.resume(tmp_path / "run")
    assert fingerprint(tmp_path / "run") == fingerprint(finished)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        path.name for path in finished.iterdir()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        ("method=fedlora",),
        ("adapter.kind=full", "training.keep_optimizer=true"),
        (
            "method=soft_tsfa",
            "adapter.rank=4",
            "soft_tsfa.error_feedback=true",
            "soft_tsfa.orthogonalise=none",
            "soft_tsfa.merge=mean",
        ),
        ("method=sflllm", "training.keep_optimizer=true"),
        ("method=jcpba", "training.keep_optimizer=true"),
    ],
)
def test_killed_ten_times_and_resumed(tmp_path: Path, method: tuple[str, ...]) -> None:
    """`kill -9` at ten moments spread over a run; the end is byte-identical."""
    settings = quick("rounds=5", "training.local_steps=3", *method)
    command = [sys.executable, "-c", "from airtune.cli.main import entry; entry()"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    whole = tmp_path / "whole"
    began = time.monotonic()
    subprocess.run(
        [*command, "run", "--out", whole, "--quiet", *settings], env=environment, check=True
    )
    seconds = time.monotonic() - began
    for attempt in range(10):
        folder = tmp_path / f"killed-{attempt}"
        process = subprocess.Popen(
            [*command, "run", "--out", folder, "--quiet", *settings], env=environment
        )
        time.sleep(seconds * (0.25 + 0.075 * attempt))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not (folder / "experiment.yaml").exists():
            # Killed before anything was written: the same command simply works.
            arguments: list[str | Path] = ["run", "--out", folder, "--quiet", *settings]
        else:
            arguments = ["resume", folder, "--quiet"]
        subprocess.run([*command, *arguments], env=environment, check=True)
        assert fingerprint(folder) == fingerprint(whole), f"killed at moment {attempt}"
