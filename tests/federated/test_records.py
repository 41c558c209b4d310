"""Records: written as they were read, a sentence for what is damaged, units that fit the keys."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airtune.errors import AirtuneError
from airtune.federated.records.fields import quantities
from airtune.federated.records.record import ClientRecord, RoundRecord
from airtune.federated.records.run_folder import RunFolder, record_line
from airtune.methods.registry import recorded_numbers
from airtune.report.labels import SUFFIXES
from tests.report.views import lines, records

OLD = Path(__file__).parents[1] / "experiment" / "runs" / "first_format" / "rounds.jsonl"


def test_a_record_of_the_first_format_is_written_as_it_was_read() -> None:
    for line in OLD.read_bytes().splitlines(keepends=True):
        record = RoundRecord.read(json.loads(line))
        assert record_line(record) == line
        assert (record.plan, record.idle_s, record.clients[0].wait_s) == (None, None, None)


def test_attributes_and_keys_are_the_same_values() -> None:
    (record,) = records(rounds=1, new={"a": 1.0})
    assert record == lines(rounds=1, new={"a": 1.0})[0]
    assert record["clients"][1]["upload_s"] == record.clients[1].upload_s == 2.1
    assert record["new"] == record.others["new"] == {"a": 1.0}
    # What is absent in the file is absent here.
    assert record.server_s is None
    assert "server_s" not in record
    assert replace(record, server_s=0.0)["server_s"] == 0.0


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.pop("latency_s"),
        lambda line: line.update(latency_s="1.0"),
        lambda line: line.update(uplink_bits=True),
        lambda line: line.update(round=2),
        lambda line: line.update(clients=[7]),
        lambda line: line.update(clients={}),
        lambda line: line["clients"][0].update(outcome=None),
        lambda line: line["clients"][0].update(kept_ranks=3),
    ],
)
def test_a_damaged_line_is_one_sentence(damage: Callable[[Any], Any], tmp_path: Path) -> None:
    (line,) = lines(rounds=1)
    folder = RunFolder(tmp_path)
    folder.records.write_bytes(record_line(line))
    assert folder.read_records() == [line]
    damage(line)
    folder.records.write_bytes(record_line(line))
    with pytest.raises(AirtuneError, match=r"rounds.jsonl, line 1 is damaged: restore the file"):
        folder.read_records()


@pytest.mark.parametrize("text", [b"[]\n", b"7\n", b"{\n", b'{"round":1}\n', b"null\n"])
def test_a_line_that_is_no_record_is_one_sentence(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "rounds.jsonl").write_bytes(text)
    with pytest.raises(AirtuneError, match="line 1 is damaged"):
        RunFolder(tmp_path).read_records()


def test_units_are_those_that_the_keys_name() -> None:
    for fields in (quantities(RoundRecord), quantities(ClientRecord), recorded_numbers()):
        for key, what in fields.items():
            unit = next((unit for end, unit in SUFFIXES.items() if key.endswith(end)), what.unit)
            assert what.unit.startswith(unit), key
