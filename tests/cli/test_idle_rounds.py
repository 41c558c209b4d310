"""Traced cells that fall silent: such rounds are charged and shown, and the run goes on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from airtune import Experiment
from airtune.experiment.reading import read_config
from airtune.experiment.world import build_world
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.records.run_folder import RunFolder
from airtune.methods.soft_tsfa.options import SoftTsfaSection
from tests.cli.conftest import airtune, quick
from tests.cli.test_run import fingerprint

__all__ = ["airtune"]
Call = Callable[..., tuple[int, str, str]]


class Killed(BaseException):
    """Stands for a process that is gone."""


def traces(folder: Path, *rows: str) -> list[str]:
    """Settings of a cell with a trace for each of `rows` (Mbit/s, separated by blanks)."""
    paths = []
    for index, row in enumerate(rows):
        path = folder / f"trace-{index}.csv"
        path.write_text("\n".join(["throughput_mbps", *row.split()]) + "\n")
        paths.append(str(path))
    return [
        f"cell.trace=[{','.join(paths)}]",
        "cell.trace_bandwidth_hz=20e6",
        f"clients.count={len(rows)}",
        "data.score_rows=0",
        "data.test_limit=2",
    ]


def settings(*changes: str) -> list[str]:
    return quick(*changes)[1::2]


IDLE_IN_A_TENTH = ("30 30 30 0 30 30 30 30 30 30", "20 20 20 0 20 20 20 20 20 20")


@pytest.mark.parametrize(
    "method",
    [
        "fedlora",
        pytest.param("soft_tsfa", marks=pytest.mark.slow),
        pytest.param("jcpba", marks=pytest.mark.slow),
    ],
)
def test_idle_rows_in_a_tenth_of_the_rounds(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends, and continues to the same bytes from a kill in the idle round."""
    keys = settings(*traces(tmp_path, *IDLE_IN_A_TENTH), "rounds=10", f"method={method}")
    run = Experiment.load(None, keys).run(tmp_path / "whole")
    idle = run.records[3]
    waited_s = 10.0  # the channel's interval
    if method == "soft_tsfa":
        waited_s = run.world.context.method.planner.idle_s(None) or 10.0  # type: ignore[arg-type]
    assert (idle["clients"], idle["idle_s"], idle["latency_s"]) == ([], waited_s, waited_s)
    assert set(idle["skipped"]) == {"0", "1"}
    assert idle["test_loss"] == run.records[2]["test_loss"]
    assert [r["round"] for r in run.records if "idle_s" in r] == [4]
    assert run.summary["idle_rounds"] == 1
    page = (tmp_path / "whole" / "report.html").read_text()
    assert f"In 1 of 10 rounds no client could send: {waited_s:.3g} s of" in page
    assert "waiting, no client can send" in page

    save = RunFolder.save

    def dying(self: RunFolder, state: ServerState) -> ServerState:
        """In the idle round: its record is there, its checkpoint is not."""
        if state.rounds_done == 4:
            raise Killed
        return save(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", dying)
        with pytest.raises(Killed):
            Experiment.load(None, keys).run(tmp_path / "killed")
    Experiment.resume(tmp_path / "killed")
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")


def test_a_trace_may_begin_idle(airtune: Call, tmp_path: Path) -> None:
    keys = traces(tmp_path, "0 0 30", "0 0 0")
    code, out, error = airtune("run", *quick(*keys, "rounds=3"), "--out", "run")
    assert code == 0, error
    assert "No client can send before round 3" in out
    assert "no client can send" in out
    assert "In 2 of 3 rounds no client could send: 20 s of" in out
    records = [json.loads(x) for x in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert [record["latency_s"] for record in records[:2]] == [10.0, 10.0]
    # The client that never has a signal is left out where the other can send.
    assert records[2]["skipped"] == {"1": "has no signal in this round"}
    code, out, error = airtune("run", *quick(*keys, "rounds=3"), "--dry-run")
    assert (code, error) == (0, "")
    assert "No client can send before round 3" in out


def test_a_run_of_idle_rounds_alone_ends(airtune: Call, tmp_path: Path) -> None:
    keys = traces(tmp_path, "0 0 30")
    code, out, error = airtune("run", *quick(*keys, "rounds=2", "deadline_s=60"), "--out", "run")
    assert code == 0, error
    assert "No client can send in any of the 2 rounds, the first in round 3" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["straggler"], summary["virtual_time_s"]) == (None, 120.0)
    assert summary["final_test_loss"] == summary["start_test_loss"]
    assert airtune("resume", "run", "--rounds", "+1")[0] == 0


def test_a_trace_that_carries_nothing_is_refused(airtune: Call, tmp_path: Path) -> None:
    keys = traces(tmp_path, "0 0", "0")
    code, _, error = airtune("run", *quick(*keys), "--out", "run")
    assert code == 2
    assert "trace with a throughput above 0 in some row" in error
    assert not (tmp_path / "run").exists()


def test_a_cell_that_never_serves_anybody_is_refused(airtune: Call, tmp_path: Path) -> None:
    code, _, error = airtune("run", *quick("deadline_s=0.001"), "--out", "run")
    assert code == 2
    assert "None of the first 2 rounds has a client to schedule" in error
    code, _, error = airtune("run", *quick("deadline_s=0.001", "rounds=1"), "--dry-run")
    assert code == 2
    assert "Round 1 has no client to schedule (" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["fedlora", "sflllm"])
def test_a_recording_with_silent_clients(airtune: Call, tmp_path: Path, method: str) -> None:
    """sflllm allots power by gains, so its outages come from recordings."""
    assert airtune("channel", "cell.csv", *quick("rounds=3"), "--rounds", "3")[0] == 0
    header, *rows = (tmp_path / "cell.csv").read_text().splitlines()
    names = header.split(",")
    number, client, gain = (names.index(name) for name in ("round", "client", "gain"))

    def silenced(row: str) -> str:
        cells = row.split(",")
        if cells[number] == "1" or (cells[number], cells[client]) == ("2", "0"):
            cells[gain] = "0.0"
        return ",".join(cells)

    (tmp_path / "cell.csv").write_text("\n".join([header, *map(silenced, rows)]) + "\n")
    changes = quick(f"method={method}", "cell.replay=cell.csv", "rounds=3")
    code, _, error = airtune("run", *changes, "--out", "run", "--quiet")
    assert code == 0, error
    records = [json.loads(x) for x in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert [len(record["clients"]) for record in records] == [3, 0, 2]
    assert records[2]["skipped"] == {"0": "has no signal in this round"}
    code, _, error = airtune("resume", "run", "--rounds", "+1")
    assert code == 2
    assert "a recording that holds every round from 0 to 3" in error


def test_what_is_settled_before_round_1_skips_idle_rounds(tmp_path: Path) -> None:
    """TSFA's target comes from rounds with a signal, however late they are."""
    idle = " ".join(["0"] * 12)
    changes = ("method=soft_tsfa", "clients.count=1")
    worlds = [
        build_world(read_config(None, settings(*traces(tmp_path, rows), *changes)))
        for rows in ("30 20 30 20", f"{idle} 30 20 30 20")
    ]
    targets = [world.config.section(SoftTsfaSection).latency_target_s for world in worlds]
    assert targets[0] is not None
    assert targets[1] == pytest.approx(targets[0], rel=0.5)


@pytest.mark.slow
def test_idle_time_of_a_drive_log(airtune: Call, tmp_path: Path) -> None:
    """On a trace's own clock: a round without any throughput waits, one direction is enough."""
    path = tmp_path / "drive.csv"
    rates = [(4000, 9000)] * 10 + [(0, 9000)] * 10 + [(4000, 0)] * 10 + [(4000, 9000)] * 5
    lines = [
        f"2019.12.14_10.{second // 60:02d}.{second % 60:02d},{down},{up}"
        for second, (up, down) in enumerate(rates)
    ]
    path.write_text("\n".join(["Timestamp,DL_bitrate,UL_bitrate", *lines]) + "\n")
    keys = [f"cell.trace={path}", "cell.trace_format=ucc-5g", "cell.trace_bandwidth_hz=20e6"]
    more = ["clients.count=1", "data.score_rows=0", "data.test_limit=2", "rounds=4"]
    code, _, err = airtune("run", *quick(*keys, *more), "--out", "run")
    assert code == 0, err
    records = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").open()]
    assert [record.get("idle_s") for record in records] == [None, 10.0, 10.0, None]
    # The fourth round has 5 s of the end and 5 of the beginning again.
    assert records[3]["clients"][0]["rate_bps"] == pytest.approx(4e6 * 3 / 20, rel=1e-6)
