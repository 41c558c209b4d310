"""Every plan is checked before its round: possible, and what it says of itself true."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from airtune.errors import InputError
from airtune.federated.checks.feasibility import BrokenRoundPlanError
from airtune.federated.method import Planner
from airtune.federated.round import run_round, start_round
from airtune.federated.view import PlanningView
from airtune.round_plan import ClientPlan, Plan
from tests.federated.fakes import EqualPlanner, make_context
from tests.federated.test_round import begin


@dataclass(frozen=True)
class Spoilt(Planner):
    """Equal shares, spoilt by a function of the plan."""

    spoil: Callable[[PlanningView, Plan], Plan]

    def plan(self, view: PlanningView, state: Any) -> Plan:
        return self.spoil(view, EqualPlanner().plan(view, {"rounds": 0}))


def first(plan: Plan, **changes: Any) -> Plan:
    """The plan with its first client changed."""
    return replace(plan, clients=(replace(plan.clients[0], **changes), *plan.clients[1:]))


WRONG: dict[str, tuple[Callable[[PlanningView, Plan], Plan], str]] = {
    "shares above the band": (
        lambda view, plan: replace(
            plan, clients=tuple(replace(c, bandwidth_hz=150.0) for c in plan.clients)
        ),
        "the bandwidth shares add up to 450 Hz of a band of 300 Hz",
    ),
    "one share above it": (
        lambda view, plan: first(plan, bandwidth_hz=900.0),
        "bandwidth_hz of client 0 is 900, allowed is 0 to 300",
    ),
    "a negative share": (
        lambda view, plan: first(plan, bandwidth_hz=-1.0),
        "bandwidth_hz of client 0 is -1",
    ),
    "no number": (
        lambda view, plan: first(plan, bandwidth_hz=float("nan")),
        "bandwidth_hz of client 0 is nan",
    ),
    "more power than the device": (
        lambda view, plan: first(plan, tx_power_w=0.6),
        "tx_power_w of client 0 is 0.6, allowed is 0 to 0.5",
    ),
    "a client of no cohort": (
        lambda view, plan: replace(plan, clients=(*plan.clients, ClientPlan(7, 0.0, 0.5, 1))),
        r"client 7 is not in the round's cohort \[0, 1, 2\]",
    ),
    "scheduled and skipped": (
        lambda view, plan: replace(plan, skipped={1: "tired"}),
        "client 1 is both scheduled and skipped",
    ),
    "no latency": (
        lambda view, plan: replace(plan, predicted_latency_s=0.0),
        "it predicts 0 s and takes 8.46667 s",
    ),
    "a bound above the latency": (
        lambda view, plan: replace(plan, lower_bound_s=9.0),
        "its lower bound of 9 s lies above its own 8.46667 s",
    ),
    "optimal without a proof": (
        lambda view, plan: replace(plan, status="optimal"),
        "it is called optimal",
    ),
    "optimal above its bound": (
        lambda view, plan: replace(plan, status="optimal", lower_bound_s=8.4),
        "it is called optimal",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_impossible_plan_is_refused_before_its_round(name: str) -> None:
    spoil, sentence = WRONG[name]
    context = make_context(planner=Spoilt(spoil))
    with pytest.raises(BrokenRoundPlanError, match=sentence):
        run_round(context, begin(planner=False))
    assert not context.backend.asked  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pruning_rate": 0.5}, "pruning_rate of client 0 in round 1 is 0.5.*tuner FullTuner"),
        ({"sparsity": 0.5}, "sparsity of client 0 in round 1 is 0.5.*codec DenseCodec"),
        ({"kept_ranks": (1,)}, "kept_ranks of client 0 in round 1.*codec DenseCodec"),
        ({"rank": 3}, "rank of client 0 in round 1 is 3.*tuner FullTuner"),
        ({"split_point": 1}, "split_point of client 0 in round 1 is 1.*tuner FullTuner"),
    ],
)
def test_a_decision_that_no_part_honours_is_refused(changes: dict[str, Any], sentence: str) -> None:
    context = make_context(planner=Spoilt(lambda view, plan: first(plan, **changes)))
    with pytest.raises(InputError, match=sentence):
        start_round(context, begin(planner=False))


def test_shares_that_fill_the_band_up_to_rounding_pass() -> None:
    def nearly(view: PlanningView, plan: Plan) -> Plan:
        clients = tuple(replace(c, bandwidth_hz=100.0 * (1 + 1e-12)) for c in plan.clients)
        return replace(plan, clients=clients, predicted_latency_s=view.latency_s(clients))

    context = make_context(planner=Spoilt(nearly))
    assert run_round(context, begin(planner=False)).record["clients"]
