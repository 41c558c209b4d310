"""What of a record is sent, under which name."""

import pytest

from airtune.trackers.numbers import numbers_of
from tests.report.views import records

PLAN = {"price": 2.5, "solver": "exact", "payload_bits": 80, "queue": [1, 2], "exact": True}


def test_numbers_have_the_names_of_the_record_and_bits_are_bytes() -> None:
    (record,) = records(rounds=1, clients=2, plan=PLAN, measured={"cos": {"mean": 0.5}}, idle_s=3.0)
    found = numbers_of(record, each_client=True)
    assert found["round/test_loss"] == record.test_loss
    assert found["round/uplink_bytes"] == 2 * 10_000
    assert found["round/downlink_bytes"] == 2_000
    assert found["round/idle_s"] == 3.0
    assert (found["round/clients"], found["round/skipped"]) == (2, 0)
    assert found["client-1/upload_s"] == 2.1
    assert found["client-0/uplink_bytes"] == 10_000
    plan = {name: value for name, value in found.items() if name.startswith("plan/")}
    assert plan == {"plan/price": 2.5, "plan/payload_bytes": 10, "plan/exact": 1}
    assert found["measured/cos/mean"] == 0.5
    # Neither texts, lists, the round nor a client's number are curves.
    absent = ("round/straggler_stage", "round/round", "client-0/client", "client-0/kept_ranks")
    assert not found.keys() & set(absent)
    assert all(type(value) in (int, float) for value in found.values())


def test_many_clients_are_three_numbers() -> None:
    (record,) = records(rounds=1, clients=3)
    found = numbers_of(record, each_client=False)
    assert not any(name.startswith("client-") for name in found)
    of_upload = [found[f"clients/upload_s/{word}"] for word in ("least", "mean", "greatest")]
    assert of_upload == pytest.approx([1.1, 2.1, 3.1])
    # Only some of the clients have a pruning rate: the mean is theirs.
    assert found["clients/pruning_rate/mean"] == 0.25


def test_a_round_without_clients_has_its_own_numbers() -> None:
    (record,) = records(rounds=1, clients=1)
    silent = type(record).read({**record, "clients": [], "train_loss": None, "straggler": None})
    found = numbers_of(silent, each_client=False)
    assert found["round/clients"] == 0
    assert "round/train_loss" not in found
