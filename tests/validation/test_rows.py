"""The arithmetic of the table: stages, the critical path, overhead, counters and gains."""

import csv
import json
from dataclasses import asdict, replace
from html import escape
from pathlib import Path
from typing import Any

import pytest

from airtune.deploy.links import BURST_BITS, HEADS
from airtune.federated.records.record import ClientRecord, RoundRecord
from airtune.validation.meter import Message
from airtune.validation.options import ComputingMode
from airtune.validation.result import NOT_COVERED, rows_of, write_result
from airtune.validation.rows import Measured, Row, link_seconds, round_rows
from airtune.validation.summary import counted, gain, off, summarise
from airtune.validation.words import stage_table

RATE = 1e6


def client(number: int, **values: Any) -> ClientRecord:
    return ClientRecord(
        client=number,
        outcome="in_time",
        bandwidth_hz=1e6,
        tx_power_w=0.2,
        rate_bps=RATE,
        uplink_bits=0,
        flops=0.0,
        energy_j=0.0,
        **{"broadcast_s": 1.0, "compute_s": 2.0, "upload_s": 4.0, **values},
    )


def record(clients: list[ClientRecord], **values: Any) -> RoundRecord:
    return RoundRecord(
        round=1,
        virtual_time_s=7.0,
        planned_latency_s=7.0,
        straggler=0,
        straggler_stage="upload",
        train_loss=1.0,
        test_loss=1.0,
        uplink_bits=0,
        downlink_bits=0,
        energy_j=0.0,
        skipped={},
        clients=clients,
        **{"latency_s": 7.0, **values},
    )


def message(number: int, stage: str, step: int, sent_s: float, arrived_s: float) -> Message:
    return Message(number, stage, step, 500_000, 500_200, sent_s, arrived_s)


def measured(messages: list[Message], **values: Any) -> Measured:
    clients = {entry.client for entry in messages}
    line = {
        "round": 1,
        "links_s": 0.5,
        "late": 0,
        "computing_s": dict.fromkeys(clients, 2.0),
        "server_links_s": {},
        "messages": [asdict(entry) for entry in messages],
        "link_rates": {key: [RATE, 2 * RATE] for key in clients},
        "gradient_bps": dict.fromkeys(clients, RATE),
        "adapter_bps": dict.fromkeys(clients, RATE),
        "counters": {
            entry: {"up_bytes": 0, "up_packets": 0, "down_bytes": 0, "down_packets": 0}
            for entry in clients
        },
        **values,
    }
    timing = {
        "real_s": 9.0,
        "stages": {"plan": 0.1, "encode": 0.2, "aggregate": 0.3, "evaluate": 0.4, "write": 0.5},
    }
    # Keys of clients are texts in JSON.
    return Measured.read(json.dumps(line), timing)


def apart() -> Measured:
    return measured(
        [
            message(0, "broadcast", -1, 100.0, 101.1),
            message(0, "upload", -1, 103.2, 107.0),
            message(1, "broadcast", -1, 100.0, 100.9),
            message(1, "upload", -1, 103.0, 106.0),
        ]
    )


def by_stage(rows: list[Row]) -> dict[tuple[str, int | None], Row]:
    return {(row.stage, row.client): row for row in rows}


def test_stages_of_clients_that_train_apart() -> None:
    rows = by_stage(round_rows(record([client(0), client(1)]), apart(), HEADS))
    assert rows["broadcast", 0].measured_s == pytest.approx(1.1)
    assert rows["broadcast", 0].ratio == pytest.approx(1.1)
    assert rows["upload", 1].ratio == pytest.approx(0.75)
    assert rows["upload", 1].size == 500_000
    assert rows["computing", 1].ratio == 1.0


def test_the_round_is_its_critical_path_and_its_overhead() -> None:
    rows = by_stage(round_rows(record([client(0), client(1)]), apart(), HEADS))
    path, whole = rows["transfers and computing", None], rows["round with overhead", None]
    assert path.measured_s == pytest.approx(1.1 + 2.0 + 3.8)
    assert whole.measured_s == pytest.approx(9.0 - 0.5)
    overhead = {r.stage: r.measured_s for r in rows.values() if r.kind == "overhead"}
    assert sum(overhead.values()) == pytest.approx(whole.measured_s - path.measured_s)
    assert overhead["evaluation"] == pytest.approx(0.4)
    assert overhead["dispatch"] == pytest.approx(8.5 - 6.9 - 1.5)
    assert all(row.ratio is None for row in rows.values() if row.kind == "overhead")


def test_the_formula_of_the_link() -> None:
    sent = replace(message(0, "upload", -1, 0.0, 1.0), size=1448 * 1000)
    expected = (8 * 1514 * 1000 - BURST_BITS) / (RATE * 1514 / 1448)
    assert link_seconds(sent, RATE, HEADS) == pytest.approx(expected)
    # Less than what the bucket holds crosses at once.
    assert link_seconds(replace(sent, size=1000), RATE, HEADS) == 0.0


def split() -> Measured:
    """Two steps; client 0 is slower in the first phase, client 1 in the second."""
    found = []
    for number, late in ((0, 1.0), (1, 0.0)):
        found += [
            message(number, "broadcast", -1, 0.0, 1.0),
            message(number, "activations", 0, 2.0 + late, 3.0 + late),
            message(number, "gradient", 0, 5.0, 6.0),
            message(number, "activations", 1, 9.0 - late, 10.0 - late),
            message(number, "gradient", 1, 12.0, 13.0),
            message(number, "adapter", 1, 14.0, 15.5),
        ]
    return measured(found, computing_s={}, server_links_s={"1": 0.25})


def split_record() -> RoundRecord:
    stages = {
        "broadcast": 1.0,
        "forward": 2.0,
        "activations": 2.0,
        "hidden": 0.0,
        "head": 0.0,
        "hidden_gradient": 0.0,
        "gradient": 2.0,
        "backward": 2.0,
        "adapter": 1.5,
    }
    clients = [client(k, stages_s=stages, server_s=3.0, compute_s=4.0) for k in (0, 1)]
    return record(clients, latency_s=14.5, server_s=3.0)


def test_stages_of_a_split_model() -> None:
    rows = by_stage(round_rows(split_record(), split(), HEADS))
    assert rows["activations", 0].measured_s == pytest.approx(2.0)
    assert rows["adapter", 1].ratio == pytest.approx(1.0)
    assert ("hidden", 0) not in rows
    # Forward of step 0, backward and forward between the steps, backward of the last step.
    assert rows["computing", 0].measured_s == pytest.approx(2.0 + 2.0 + 1.0)
    assert rows["computing", 1].measured_s == pytest.approx(1.0 + 3.0 + 1.0)
    # From the last activations to the gradients, without the change of rates.
    assert rows["main server", None].measured_s == pytest.approx(1.0 + 2.0 - 0.25)


def test_the_critical_path_of_a_split_model_takes_the_slowest_of_every_phase() -> None:
    rows = by_stage(round_rows(split_record(), split(), HEADS))
    phases = (2.0 + 1.0) + (1.0 + 3.0 + 1.0) + (1.0 + 1.0)
    expected = 1.0 + phases + 2.75 + 1.5
    assert rows["transfers and computing", None].measured_s == pytest.approx(expected)


def test_counters_with_and_without_heads() -> None:
    counters = {"up_bytes": 0, "up_packets": 0, "down_bytes": 0, "down_packets": 0}
    up = {**counters, "up_bytes": 1514 * 1000, "up_packets": 1000}
    messages = [replace(message(0, "upload", -1, 0.0, 1.0), size=1448 * 1000)]
    found = counted([measured(messages, counters={"0": up})])
    assert found["frames"]["ratio"] == pytest.approx(1.0)
    assert found["payload"]["ratio"] == pytest.approx(1.0)
    # 400 acknowledgements of the other direction: frames without payload.
    up = {**up, "up_bytes": up["up_bytes"] + 66 * 400, "up_packets": 1400}
    found = counted([measured(messages, counters={"0": up})])
    assert found["frames"]["ratio"] == pytest.approx(1.0 + 66 * 400 / 1514e3)
    assert found["payload"]["ratio"] == pytest.approx(1.0)
    small = [replace(messages[0], size=449_999)]
    assert counted([measured(small, counters={"0": up})])["frames"]["count"] == 0


def test_the_summary_counts_large_transfers_only() -> None:
    rows = round_rows(record([client(0), client(1)]), apart(), HEADS)
    found = summarise(rows, [apart()])
    assert found["transfers"]["count"] == 4
    assert found["transfers"]["median"] == pytest.approx(0.1)
    assert found["transfers"]["largest"] == pytest.approx(0.25)
    assert found["round"]["median"] == pytest.approx(8.5 / 7.0 - 1.0)
    assert found["rest_s"] == pytest.approx(0.1 + 0.2 + 0.1)
    small = [replace(row, size=99_999) for row in rows]
    assert summarise(small, [apart()])["transfers"] == {
        "count": 0,
        "median": None,
        "largest": None,
    }


def test_off_is_on_both_sides() -> None:
    assert off([0.9, 1.2, None]) == {
        "count": 2,
        "median": pytest.approx(0.15),
        "largest": pytest.approx(0.2),
    }


def test_a_gain_is_the_time_that_is_saved() -> None:
    arm = {"predicted_s": 6.0, "measured_s": 8.0, "path_s": 6.0}
    other = {"predicted_s": 8.0, "measured_s": 10.0, "path_s": 8.0}
    assert gain(arm, other) == {
        "predicted": 0.25,
        "measured": pytest.approx(0.2),
        "measured_without_overhead": 0.25,
    }


def test_the_table_has_means_over_rounds() -> None:
    first = round_rows(record([client(0), client(1)]), apart(), HEADS)
    second = [replace(row, round=2, measured_s=2 * row.measured_s) for row in first]
    headings, rows = stage_table([*first, *second])
    row = next(row for row in rows if row[:2] == ["broadcast", "0"])
    assert dict(zip(headings, row, strict=True)) == {
        "stage": "broadcast",
        "client": "0",
        "kB": "500",
        "predicted": "1.000 s",
        "measured": "1.650 s",
        "ratio": "1.6500",
        "furthest off": "120.0%",
    }
    assert next(row for row in rows if row[0] == "overhead: evaluation")[4] == "0.600 s"


def test_the_folder_has_the_numbers_the_rows_and_a_page(tmp_path: Path) -> None:
    rows = round_rows(record([client(0), client(1)]), apart(), HEADS)
    summary = summarise(rows, [apart()])
    arm = {
        "arm": "fedlora",
        "rounds": 1,
        "clients": 2,
        "load_average": [0.5, 1.5],
        "summary": {**summary, "late": 3},
        "rows": [asdict(row) for row in rows],
    }
    result = {
        "computing_words": ComputingMode("emulated").words,
        "emulated": True,
        "cores": 2,
        "least_transfer_bytes": 100_000,
        "least_round_bytes": 450_000,
        "arms": [arm],
        "gains": [
            {"over": "b", "predicted": 0.25, "measured": 0.2, "measured_without_overhead": 0.24}
        ],
        "not_covered": NOT_COVERED,
    }
    write_result(result, {"fedlora": rows}, tmp_path)
    assert rows_of(json.loads((tmp_path / "validation.json").read_text())["arms"][0]) == rows
    table = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert [row["stage"] for row in table] == [row.stage for row in rows]
    assert table[0]["ratio"] == str(rows[0].ratio)
    page = (tmp_path / "report.html").read_text()
    assert "EMULATED" in page.upper()
    assert "took longer than modelled 3 times" in page
    assert "25.0% less time than b as predicted, 20.0% as measured" in page
    assert escape(NOT_COVERED) in page
    assert "Transfers, measured over predicted" in page
