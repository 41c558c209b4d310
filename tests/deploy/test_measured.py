"""Rates that are measured: smoothing, age, what is written, and a run that is planned with them."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airtune.deploy.measured import WEIGHT, MeasuredCell
from airtune.deploy.messages import BatchMeans, Ready
from airtune.deploy.pacing import paced
from airtune.deploy.server import check_report
from airtune.errors import AirtuneError, InputError
from airtune.experiment.reading import checked
from airtune.experiment.run import Run
from airtune.wireless.cell import CellSettings
from tests.deploy.harness import bare_job, deployment

CELL = CellSettings(bandwidth_hz=10e6)


def test_the_mean_moves_towards_what_was_measured(tmp_path: Path) -> None:
    cell = MeasuredCell.begin(CELL, tmp_path / "rates.jsonl", [20e6, 5e6, 0.0], [40e6, 1e6, 1e6])
    assert cell.rows[0].uplink == pytest.approx([2.0, 0.5, 1e-6])
    cell.after_round(0, {0: 4e6, 2: 1e6}, {0: 2e6})
    wanted = (1 - WEIGHT) * 2.0 + WEIGHT * 0.5
    assert cell.rows[1].uplink == pytest.approx([wanted, 0.5, 1e-6])
    assert cell.rows[1].age.tolist() == [0, 1, 1]
    cell.after_round(1, {1: 1e6}, {1: 3e6})
    assert cell.rows[2].uplink[1] == pytest.approx(0.5 * 0.5 + 0.5 * 3.0)
    assert cell.rows[2].age.tolist() == [1, 0, 2]


def test_a_run_goes_on_with_the_same_rates(tmp_path: Path) -> None:
    path = tmp_path / "rates.jsonl"
    cell = MeasuredCell.begin(CELL, path, [20e6, 5e6], [40e6, 1e6])
    for index in range(3):
        cell.after_round(index, {0: 4e6}, {0: (index + 1) * 1e6 / 3})
    for done in range(4):
        read = MeasuredCell.read(CELL, path, done)
        for one, other in zip(read.rows, cell.rows, strict=False):
            assert np.array_equal(one.uplink, other.uplink)
        link = read.channel().observe(done + 5).truth.uplink()
        assert link.rate(np.array([1e6, 1e6])) == pytest.approx(1e6 * cell.rows[done].uplink)
    # A round that is made again replaces what came after it.
    read = MeasuredCell.read(CELL, path, 3)
    read.after_round(1, {0: 4e6}, {0: 8e6})
    assert len(read.rows) == 3
    with pytest.raises(AirtuneError, match="ends before round 6"):
        MeasuredCell.read(CELL, path, 5)
    path.write_text("{}")
    with pytest.raises(AirtuneError, match="damaged or missing"):
        MeasuredCell.read(CELL, path, 0)


def test_the_directions_are_apart(tmp_path: Path) -> None:
    cell = MeasuredCell.begin(CELL, tmp_path / "rates.jsonl", [20e6], [30e6])
    truth = cell.channel().observe(0).truth
    band = np.array([10e6])
    assert truth.uplink().rate(band) == pytest.approx([20e6])
    assert truth.downlink().rate(band) == pytest.approx([30e6])


def test_pacing_keeps_the_rate_and_never_bursts() -> None:
    now = [0.0]
    sent: list[tuple[float, int]] = []

    def sleep(seconds: float) -> None:
        assert seconds > 0
        now[0] += seconds

    pieces = [bytes(size) for size in (1000, 1000, 500, 1000, 1000)]
    for number, piece in enumerate(paced(pieces, 8e3, lambda: now[0], sleep)):
        sent.append((now[0], len(piece)))
        if number == 2:
            now[0] += 10.0  # the network stalls
    assert [moment for moment, _ in sent[:3]] == pytest.approx([0.0, 1.0, 2.0])
    stalled = sent[3:]
    assert stalled[0][0] == pytest.approx(12.0)
    # At most the one piece that is late goes at once; the next waits again.
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(stalled)]
    assert all(gap >= 0.0 for gap in gaps)
    assert list(paced(pieces, None)) == pieces


def test_a_deployment_is_planned_with_measured_rates(tmp_path: Path) -> None:
    job = deployment(tmp_path, "clients.count=2", "rounds=3", "deploy.rates=measured")
    job.run()
    rows = [json.loads(line) for line in (job.folder / "rates.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 2, 3, 4]
    assert all(row["age"] == [0, 0] for row in rows)
    records = Run.open(job.folder).records
    for row, record in zip(rows, records, strict=False):
        for entry in record.clients:
            rate = row["uplink"][entry.client] * entry.bandwidth_hz
            assert entry.rate_bps == pytest.approx(rate)
    assert Run.open(job.folder).config.cell.round_trip_s > 0


def test_a_split_model_has_no_measured_rates(tmp_path: Path) -> None:
    job = deployment(tmp_path, "clients.count=2", "method=sflllm", "deploy.rates=measured")
    server = job.start_server()
    clients = [job.start_client(number) for number in range(2)]
    server.join(60.0)
    assert isinstance(job.errors["server"], InputError)
    assert "deploy.rates is measured" in str(job.errors["server"])
    for client in clients:
        assert client.is_alive()  # they wait for a server that is started again


@pytest.mark.parametrize(
    ("asks", "missing", "problem"),
    [
        ({"probes": True}, {"downlink_bps": None}, r"client 1: downlink_bps is None"),
        ({"probes": True}, {"uplink_bps": 3.0}, r"client 1: uplink_bps is 3"),
        ({"calibrates": True}, {"flop_rate": None}, r"client 1: flop_rate is left out"),
        ({"calibrates": True}, {"flop_rate": 1.0}, r"client 1: training_flop_rate is 1"),
    ],
)
def test_a_client_reports_what_it_was_asked_to_measure(
    asks: dict[str, bool], missing: dict[str, float | None], problem: str
) -> None:
    config = checked({"deploy": {"row_lengths": "means"}})
    means = BatchMeans(longest=40, width=30.0, real_tokens=50.0, label_tokens=20.0)
    values: dict[str, Any] = {
        "run": "ab" * 16,
        "process": "cd" * 8,
        "rows": 9,
        "digest": "0" * 32,
        "means": means,
        "flop_rate": 1e10,
        "uplink_bps": 1e6,
        "downlink_bps": 1e6,
        "round_trip_s": 0.01,
    }
    job = bare_job(**asks)
    assert check_report(1, Ready(**values), {}, config, job).rows == 9
    with pytest.raises(InputError, match=problem):
        check_report(1, Ready(**{**values, **missing}), {}, config, job)
