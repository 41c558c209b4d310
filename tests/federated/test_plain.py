"""A planner's numpy scalars are recorded and kept; what JSON cannot hold is named at once."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from airtune.federated.checks.guard import plain_plan, plain_state
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.records.run_folder import record_line
from airtune.federated.round import run_round
from airtune.round_plan import ClientPlan, Plan, SubchannelShare
from tests.federated.fakes import EqualPlanner, make_context

START = ServerState({"x": torch.zeros(2)}, planner={"rounds": 0})
ENTRY = ClientPlan(0, 1e6, 0.2, 8)
PLAN = Plan((ENTRY,), 1.0, None, "feasible", "equal")


class NumpyPlanner(EqualPlanner):
    def plan(self, view: Any, state: Any) -> Plan:
        plan = super().plan(view, state)
        clients = tuple(
            replace(entry, client=np.int64(entry.client), rank=np.int64(entry.rank))  # type: ignore[arg-type]
            for entry in plan.clients
        )
        extras: Any = {"queue": np.float32(0.5), "n": np.int64(3)}
        return replace(plan, clients=clients, extras=extras)

    def after_round(self, state: Any, record: Any) -> dict[str, Any]:
        return {"queue": np.float32(0.5), "order": [np.int64(2)]}


def test_a_plan_is_changed_as_dataclasses_replace_does() -> None:
    """The key of its work follows decisions on work, and none on the radio."""
    key = ENTRY.work_key
    cases: list[dict[str, Any]] = [
        {"bandwidth_hz": 5.0},
        {"rank": 3, "sketch": 7},
        {"pruning_rate": 0.2},
        {},
    ]
    for changes in cases:
        changed = ENTRY.changed(**changes)
        assert changed == replace(ENTRY, **changes)
        assert changed.work_key == replace(ENTRY, **changes).work_key
        assert (changed.work_key == key) == (changes.keys() <= {"bandwidth_hz"})
    with pytest.raises(TypeError, match="bandwith_hz"):
        ENTRY.changed(bandwith_hz=1.0)


def test_only_plans_of_plain_numbers_stay_as_they_are() -> None:
    assert plain_plan(PLAN).clients[0] is ENTRY
    odd = replace(ENTRY, rank=np.int64(8), gets_half=np.bool_(False))  # type: ignore[arg-type]
    (found,) = plain_plan(replace(PLAN, clients=(odd,))).clients
    assert type(found.rank) is int
    assert found.gets_half is False


def test_numpy_scalars_of_a_planner_are_recorded_and_kept() -> None:
    outcome = run_round(make_context(planner=NumpyPlanner()), START)
    assert b'"queue":0.5' in record_line(outcome.record)
    assert outcome.state.planner == {"queue": 0.5, "order": [2]}
    assert type(outcome.state.planner["queue"]) is float


def test_plain_numbers_stay_as_they_are() -> None:
    share = SubchannelShare((1, 2), (1e-9, 2e-9))
    entry = replace(ENTRY, main=share, federated=share, kept_ranks=(3, 4), downlink_share=0.5)
    plan = replace(PLAN, clients=(entry,), skipped={1: "is away"}, extras={"a": None, "n": 3})
    assert plain_plan(plan) == plan


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bandwidth_hz": "1e6"}, "bandwidth_hz of client 0 is '1e6', not a number"),
        ({"tx_power_w": None}, "tx_power_w of client 0 is None, not a number"),
        ({"rank": 4.5}, "rank of client 0 is 4.5, not a whole number"),
        ({"kept_ranks": 3}, "kept_ranks of client 0 is 3, not a tuple"),
        ({"main": (1, 2)}, "main of client 0 is a tuple, not a SubchannelShare"),
    ],
)
def test_a_decision_that_is_no_number_is_named(changes: Any, sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        plain_plan(replace(PLAN, clients=(replace(ENTRY, **changes),)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"message": None}, "message is None, not a text"),
        ({"skipped": {1: None}}, "a reason in skipped is None, not a text"),
        ({"extras": {"queue": object()}}, "extras.queue is <object .*, not a number"),
        ({"predicted_latency_s": "1"}, "predicted_latency_s is '1', not a number"),
        ({"clients": None}, "clients is None, not a tuple"),
    ],
)
def test_what_a_plan_cannot_hold_is_named(changes: Any, sentence: str) -> None:
    plan = replace(PLAN)
    for name, value in changes.items():
        # As a planner that bypasses or predates the check of the class would leave it.
        object.__setattr__(plan, name, value)
    with pytest.raises(TypeError, match=sentence):
        plain_plan(plan)


def test_a_state_that_no_checkpoint_can_hold_is_named() -> None:
    with pytest.raises(TypeError, match=r"its state\.queue is array.*, not a number"):
        plain_state({"queue": np.zeros(2)})
