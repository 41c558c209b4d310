"""A run goes on only with what it began with, or says by name what is another."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airtune import Experiment, Run
from airtune.config.experiment import ExperimentConfig
from airtune.data.encoding import Encoded
from airtune.data.partition import Partition
from airtune.errors import AirtuneError, InputError
from airtune.experiment import digests, environment, shards
from airtune.experiment.reading import read_config
from airtune.federated.records.checkpoint import list_checkpoints, read_checkpoint
from tests.cli.conftest import quick

FIRST_FORMAT = Path(__file__).parent / "runs" / "first_format"
ROWS = [{"prompt": f"name[{k}]", "completion": f"It is called {k}."} for k in range(46)]
PART = """from airtune.update.codec import DenseCodec


class Mine(DenseCodec):
    pass
"""
TRACE = "time_s,throughput_mbps\n0,20\n10,30\n20,25\n30,22\n"


def write_rows(path: Path, rows: Any) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def began(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run`, one round on files that lie beside it."""
    place = tmp_path_factory.mktemp("began")
    write_rows(place / "rows.jsonl", ROWS[:40])
    write_rows(place / "test.jsonl", ROWS[40:])
    (place / "trace.csv").write_text(TRACE)
    (place / "part_of_repeatability.py").write_text(PART)
    (place / "experiment.yaml").write_text(
        f"data: {{train: {place}/rows.jsonl, test: {place}/test.jsonl}}\n"
        f"cell: {{trace: {place}/trace.csv, trace_bandwidth_hz: 1.0e7}}\n"
        "codec: part_of_repeatability:Mine\n"
    )
    settings = quick("rounds=1", "clients.count=2", "data.train_limit=40")[1::2]
    Experiment.load(place / "experiment.yaml", settings).run(place / "run")
    return place


@pytest.fixture
def place(began: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, whose experiment names the copies of the files: another place is no change."""
    shutil.copytree(began, tmp_path / "p")
    path = tmp_path / "p" / "run" / "experiment.yaml"
    path.write_text(path.read_text().replace(str(began), str(tmp_path / "p")))
    return tmp_path / "p"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def sessions(place: Path) -> Any:
    return json.loads((place / "run" / "environment.json").read_text())["sessions"]


def changes_told(run: Run) -> list[str]:
    """The notices of a run's summary without the one on its trace."""
    return [told for told in run.summary["notices"] if not told.startswith("cell.trace replaces")]


def test_the_same_contents_elsewhere_are_no_change(place: Path) -> None:
    run = Experiment.resume(place / "run", rounds=2)
    assert [record["round"] for record in run.records] == [1, 2]
    assert [entry["after_round"] for entry in sessions(place)] == [0, 1]
    assert not any("changes" in entry for entry in sessions(place))
    assert changes_told(run) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("rows.jsonl", "called 3.", "called B.", "the training data of client {client} differs"),
        ("test.jsonl", "called 43.", "called B.", "the test data differs"),
        ("trace.csv", "30,22", "30,23", "cell.trace, the file trace.csv, differs"),
        (
            "run/experiment.yaml",
            "learning_rate: 0.0125",
            "learning_rate: 0.5",
            "training.learning_rate is 0.5 and was 0.0125",
        ),
        (
            "run/experiment.yaml",
            "max_grad_norm: 1.0",
            "max_grad_norm: 2.0",
            "training.max_grad_norm is 2.0 and was 1.0",
        ),
    ],
)
def test_what_changed_is_refused_by_name(
    place: Path, file: str, old: str, new: str, named: str
) -> None:
    edit(place / file, old, new)
    before = contents(place / "run")
    with pytest.raises(AirtuneError) as caught:
        Experiment.resume(place / "run", more_rounds=1)
    known = read_checkpoint(place / "run/checkpoints/round-00001.safetensors").fingerprint
    assert known is not None
    holders = {
        str(client)
        for client, row in enumerate(known.shards)
        if f"the training data of client {client} " in str(caught.value)
    }
    sentence = named.format(client=holders.pop() if holders else "?")
    assert sentence in str(caught.value)
    assert not holders, "one row belongs to one client"
    assert "--accept-changes" in str(caught.value)
    assert contents(place / "run") == before


def test_the_source_of_a_part_is_remembered(place: Path) -> None:
    """The module is imported once a process, so its own file is the one that is looked at."""
    path = Path(str(sys.modules["part_of_repeatability"].__file__))
    edit(path, "pass", "x = 1")
    try:
        with pytest.raises(AirtuneError, match="the source of codec part_of_repeatability:Mine"):
            Experiment.resume(place / "run", more_rounds=1)
    finally:
        edit(path, "x = 1", "pass")


def test_accepted_changes_are_recorded(place: Path) -> None:
    edit(place / "rows.jsonl", "called 3.", "called B.")
    edit(place / "run/experiment.yaml", "learning_rate: 0.0125", "learning_rate: 0.5")
    run = Experiment.resume(place / "run", rounds=2, accept_changes=True)
    changes = sessions(place)[-1]["changes"]
    assert changes.pop("training.learning_rate") == [0.0125, 0.5]
    (name,) = changes
    assert name.startswith("the training data of client ")
    told = (
        "After round 1 the run went on with changes: training.learning_rate 0.0125 -> 0.5; "
        f"{name} changed."
    )
    assert changes_told(run) == [told]
    assert (
        "went on with changes: training.learning_rate 0.0125"
        in (place / "run/report.html").read_text()
    )
    assert any(
        sentence.startswith("Accepted: training.learning_rate is 0.5") for sentence in run.notices
    )
    # From there on it is what the run rests on.
    assert changes_told(Experiment.resume(place / "run", rounds=3)) == [told]


def test_accepted_and_killed_before_the_next_checkpoint(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of what was accepted comes before anything that follows from it."""
    edit(place / "rows.jsonl", "called 3.", "called B.")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("airtune.federated.records.run_folder.write_checkpoint", die)
        with pytest.raises(KeyboardInterrupt):
            Experiment.resume(place / "run", accept_changes=True)
    assert len(Experiment.resume(place / "run", rounds=2).records) == 2


def test_settings_of_a_resumed_run_are_deliberate(place: Path) -> None:
    run = Experiment.resume(place / "run", rounds=2, settings=["training.learning_rate=1e-3"])
    assert read_config(place / "run/experiment.yaml").training.learning_rate == 1e-3
    assert "training.learning_rate 0.0125 -> 0.001" in changes_told(run)[0]
    with pytest.raises(AirtuneError, match="method is jcpba and was fedlora, and it is the same"):
        Experiment.resume(place / "run", settings=["method=jcpba"])
    with pytest.raises(InputError, match=r"clients.count is 1, but .* at least 2, since"):
        Experiment.resume(place / "run", settings=["clients.count=1"], accept_changes=True)


def test_other_versions_are_told_and_recorded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = environment.versions()
    monkeypatch.setattr(environment, "versions", lambda: {**real, "torch": "9.9"})
    run = Experiment.resume(place / "run")
    sentence = f"The run continues with torch 9.9 (was {real['torch']}): rounds to come may differ"
    assert any(told.startswith(sentence) for told in run.notices)
    assert sessions(place)[-1]["versions"]["torch"] == "9.9"


def test_readers_refuse_another_model(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "weights_digest", lambda model: "0" * 32)
    with pytest.raises(AirtuneError, match="the base weights differs"):
        Run.open(place / "run").evaluate()
    with pytest.raises(AirtuneError, match="the base weights differs"):
        Run.open(place / "run").export(place / "out")
    assert not (place / "out").exists()
    Run.open(place / "run", accept_changes=True).export(place / "out")


def test_weights_have_a_digest_that_an_adapter_does_not_change() -> None:
    from airtune.tuning.adapter import AdapterSettings, attach
    from airtune.tuning.base_model import load_base

    base = load_base("builtin")
    before = digests.weights_digest(base.model)
    attach(base, AdapterSettings(2))
    assert digests.weights_digest(base.model) == before
    next(iter(base.model.parameters())).data.view(-1)[-1] += 1e-3
    assert digests.weights_digest(base.model) != before


def test_shards_against_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same digests whatever the size of the pieces; each is of its own client alone."""
    import hashlib

    source = np.random.default_rng(5)
    lengths = source.integers(1, 9, 30)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rows = Encoded(
        source.integers(0, 99, starts[-1]).astype(np.int32),
        source.random(starts[-1]) < 0.5,
        starts,
        source.integers(0, lengths).astype(np.int32),
        np.arange(30),
        0,
        0,
        0,
        16,
    )
    parts = Partition(source.permutation(30), np.array([0, 7, 8, 30]))
    wanted = []
    for client in range(3):
        own = [int(row) for row in parts[client]]
        shape = [*(lengths[row] for row in own), *(rows.prompt_length[row] for row in own)]
        tokens = [int(token) for row in own for token in rows.row(row)]
        labels = [bool(x) for row in own for x in rows.label[starts[row] : starts[row + 1]]]
        pieces = (
            b"".join(int(number).to_bytes(8, "little") for number in shape),
            b"".join(token.to_bytes(4, "little") for token in tokens),
            bytes(labels),
        )
        whole = b"".join(hashlib.sha256(piece).digest() for piece in pieces)
        wanted.append(hashlib.sha256(whole).digest()[:16])
    assert [bytes(row) for row in shards.shard_digests(rows, parts)] == wanted
    monkeypatch.setattr(shards, "_TOKENS_AT_ONCE", 5)
    assert [bytes(row) for row in shards.shard_digests(rows, parts)] == wanted


def test_keys_that_change_a_result() -> None:
    plain = digests.result_keys(ExperimentConfig())
    assert not {key.partition(".")[0] for key in plain} & {"engine", "model", "jcpba", "stop"}
    assert plain["rounds"] == 48, "the default schedule depends on it"
    steady = ExperimentConfig(training={"schedule": "constant"})
    assert "rounds" not in digests.result_keys(steady)


@pytest.mark.parametrize("newer", ["experiment.yaml", "rounds.jsonl", "checkpoint"])
def test_a_later_format_is_refused(
    place: Path, newer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if newer == "checkpoint":
        from airtune.federated.records import checkpoint

        monkeypatch.setattr(checkpoint, "FORMAT", 3)
        Experiment.resume(place / "run", rounds=2)
        monkeypatch.setattr(checkpoint, "FORMAT", 2)
    else:
        old = {"experiment.yaml": "format: 2", "rounds.jsonl": '"format":2'}[newer]
        edit(place / "run" / newer, old, old.replace("2", "3"))
    before = contents(place / "run")
    with pytest.raises(AirtuneError, match=r"format.* 3,.* 1 to 2.*use the airtune that wrote"):
        Experiment.resume(place / "run", rounds=3, accept_changes=True)
    if newer == "rounds.jsonl":
        with pytest.raises(AirtuneError, match="line 1 has format 3"):
            _ = Run.open(place / "run").records
    assert contents(place / "run") == before


def test_a_run_of_the_first_format_goes_on(tmp_path: Path) -> None:
    """Made by the version before formats and fingerprints, and interrupted after two rounds."""
    shutil.copytree(FIRST_FORMAT, tmp_path / "run")
    old = (tmp_path / "run" / "rounds.jsonl").read_bytes()
    assert [record["round"] for record in Run.open(tmp_path / "run").records] == [1, 2]
    run = Experiment.resume(tmp_path / "run")
    assert [record["round"] for record in run.records] == [1, 2, 3]
    assert (tmp_path / "run" / "rounds.jsonl").read_bytes().startswith(old)
    assert "recorded neither its data nor its weights" in run.notices[0]
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[0]
    assert read_checkpoint(newest).fingerprint is not None
    assert run.evaluate()["tuned"]["test_loss"] == run.summary["final_test_loss"]
