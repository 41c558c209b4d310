"""The section `pacing` from the command line: to the bit, killed and resumed, refused, reported."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airtune import Experiment
from airtune.errors import AirtuneError, InputError
from airtune.experiment.run import Run
from tests.cli.conftest import quick
from tests.federated.test_pacing import plain

Call = Callable[..., tuple[int, str, str]]
BUFFERED = ("pacing.kind=buffered", "pacing.buffer=2")
ASYNCHRONOUS = ("pacing.kind=asynchronous", "pacing.most_staleness=3")
SEMI = ("pacing.kind=semi", "pacing.period_s=0.1", "fedlora.bandwidth=equal")
PROCESSOR = (*BUFFERED, "pacing.sharing=processor", "fedlora.bandwidth=equal")


def settings(*changes: str) -> list[str]:
    return quick("clients.count=4", "rounds=5", *changes)[1::2]


def run(folder: Path, *changes: str) -> Run:
    return Experiment.load(None, settings(*changes)).run(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """What two runs of one seed must share, and what a run in mid-flight rests on."""
    names = ("rounds.jsonl", "summary.json", "report.html", "experiment.yaml")
    parts = [*(folder / name for name in names), *(folder / "adapter").iterdir()]
    parts += [*(folder / "checkpoints").iterdir(), *(folder / "clients").rglob("*.safetensors")]
    parts += (folder / "in_flight").rglob("*.safetensors")
    return {str(path.relative_to(folder)): path.read_bytes() for path in parts}


ENGINES = [
    pytest.param("sequential"),
    pytest.param("batched", marks=pytest.mark.slow),
    pytest.param("workers", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_buffer_of_all_is_a_synchronous_run_to_the_bit(engine: str, tmp_path: Path) -> None:
    """Adapter, clock and records; with clients' moments, a schedule and mixed devices."""
    same = (f"engine={engine}", "training.schedule=cosine", "rounds=3")
    whole = run(tmp_path / "synchronous", *same)
    paced = run(tmp_path / "buffered", *same, "pacing.kind=buffered", "pacing.buffer=4")
    assert [plain(record) for record in paced.records] == [plain(r) for r in whole.records]
    adapter = "adapter/adapter_model.safetensors"
    one, other = (tmp_path / name / adapter for name in ("synchronous", "buffered"))
    assert one.read_bytes() == other.read_bytes()


def kill(folder: Path, changes: tuple[str, ...], after: int) -> None:
    """`kill -9` once so many steps are told of."""
    code = f"""
import os, signal
from airtune import Experiment

class Kill:
    def round_done(self, record):
        if record.round == {after}:
            os.kill(os.getpid(), signal.SIGKILL)

Experiment.load(None, {settings(*changes)!r}).run({str(folder)!r}, Kill())
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "changes",
    [
        ASYNCHRONOUS,
        pytest.param(BUFFERED, marks=pytest.mark.slow),
        pytest.param(SEMI, marks=pytest.mark.slow),
        pytest.param((*PROCESSOR, "cohort.dropout=0.3"), marks=pytest.mark.slow),
        pytest.param(
            (*BUFFERED, "fedlora.uplink_dtype=int8", "cohort.size=3"), marks=pytest.mark.slow
        ),
    ],
    ids=["asynchronous", "buffered", "semi", "processor", "int8"],
)
def test_killed_in_mid_flight_to_the_same_bytes(changes: tuple[str, ...], tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", *changes)
    kill(tmp_path / "killed", changes, 3)
    assert whole.records[2].in_flight, "the run was not killed in mid-flight"
    Experiment.resume(tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_run_in_words(airtune: Call, tmp_path: Path) -> None:
    changes = [part for one in settings(*ASYNCHRONOUS) for part in ("--set", one)]
    code, out, _ = airtune("run", *changes, "--out", str(tmp_path / "run"))
    assert code == 0
    assert "under way" in out
    page = (tmp_path / "run/report.html").read_text()
    assert "Staleness of updates" in page
    assert "Planned against charged" not in page
    pace = json.loads((tmp_path / "run/summary.json").read_text())["pace"]
    assert pace["begun"] == pace["applied"] + pace["dropped"] + pace["silent"] + pace["in_flight"]
    assert f"Of {pace['begun']} tasks begun, {pace['applied']} updates were merged" in out
    records = Run.open(tmp_path / "run").records
    stale = [e for r in records for e in r.clients if (e.staleness or 0) > 0]
    assert stale
    errors = [entry.stale_error for entry in stale if entry.share is not None]
    assert all(error is not None for error in errors)
    assert any(errors)


def test_the_preview_promises_no_time(airtune: Call) -> None:
    changes = [part for one in settings(*ASYNCHRONOUS) for part in ("--set", one)]
    code, out, _ = airtune("run", *changes, "--dry-run")
    assert code == 0
    assert "expected virtual time" not in out
    assert "with pacing.kind: asynchronous the 5 steps that follow take as long as arrivals" in out


def test_every_parameter_may_be_trained(tmp_path: Path) -> None:
    """Without factors there is no product error."""
    full = ("adapter.kind=full", "training.learning_rate=0.003", "rounds=3")
    for record in run(tmp_path / "run", *ASYNCHRONOUS, *full).records:
        assert all(entry.stale_error is None for entry in record.clients)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (("method=jcpba",), "pacing.kind is asynchronous.*synchronous with method jcpba"),
        (("method=sflllm",), "synchronous with method sflllm; others are for fedlora"),
        (("method=soft_tsfa",), "synchronous with method soft_tsfa"),
        (("method=hetlora",), "synchronous with method hetlora"),
        (("method=flora",), "synchronous with method flora"),
        (("planner={use: bandwidth, bandwidth: random}",), "planner is BandwidthPlanner.*a part"),
        (("aggregator=zero-padded",), "one that uses shares, with pacing.kind: asynchronous"),
        (("pacing.sharing=processor",), "pacing.sharing is processor.*fixed, as planner Bandwidth"),
        (("deadline_s=3",), "deadline_s is 3.*pacing.most_staleness"),
        (("pacing.buffer=2",), "pacing.buffer is 2.*unless pacing.kind is buffered"),
        (("pacing.period_s=2",), "pacing.period_s is 2.*unless pacing.kind is semi"),
        (("pacing.kind=buffered", "pacing.buffer=5"), "pacing.buffer is 5.*at most 4, the tasks"),
        (("pacing.kind=semi",), "pacing.period_s is None"),
        (("pacing.kind=synchronous", "pacing.mixing_rate=0.5"), "pacing.mixing_rate is 0.5.*left"),
        (("pacing.staleness.slope=2",), "pacing.staleness.slope is 2.*kind is hinge"),
        (("pacing.mixing_rate=1.5",), "pacing.mixing_rate is 1.5"),
        (("pacing.staleness.kind=linear",), "pacing.staleness.kind is linear"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    changes: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        run(tmp_path / "run", "pacing.kind=asynchronous", *changes)
    assert not (tmp_path / "run").exists()


def test_deployments_and_advice_are_refused(airtune: Call, tmp_path: Path) -> None:
    file = tmp_path / "paced.yaml"
    file.write_text("pacing: {kind: asynchronous}\n")
    code, _, err = airtune("advise", str(file))
    assert code == 2
    assert "pacing.kind is asynchronous, but it must be synchronous for advice" in err


def test_the_pacing_of_a_run_stays(tmp_path: Path) -> None:
    run(tmp_path / "run", *ASYNCHRONOUS, "rounds=2")
    with pytest.raises(AirtuneError, match=r"pacing.kind .*the same in all rounds of a run"):
        Experiment.resume(
            tmp_path / "run", 1, settings=("pacing.kind=buffered",), accept_changes=True
        )
