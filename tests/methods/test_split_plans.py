"""Plans of a split round that must be refused, whatever planner made them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from airtune.experiment.reading import read_config
from airtune.experiment.world import build_world
from airtune.federated.charging.split_costs import SplitSystem
from airtune.federated.checks.feasibility import BrokenRoundPlanError, check_plan
from airtune.federated.observation import planning_view
from airtune.federated.view import PlanningView
from airtune.round_plan import Plan, SubchannelShare
from tests.methods.test_sflllm import settings


def _first_client(plan: Plan, **changes: Any) -> Plan:
    return replace(plan, clients=(replace(plan.clients[0], **changes), *plan.clients[1:]))


def _share(plan: Plan, position: int, **changes: Any) -> SubchannelShare:
    share = plan.clients[position].main
    assert share is not None
    return replace(share, **changes)


WRONG_PLANS: dict[str, tuple[Callable[[Plan], Plan], str]] = {
    "none": (lambda plan: _first_client(plan, main=None), "has no subchannel of the main link"),
    "another's": (
        lambda plan: _first_client(plan, main=_share(plan, 1)),
        r"main subchannel \d+ serves 0 and client 1",
    ),
    "beyond the link": (
        lambda plan: _first_client(
            plan, main=_share(plan, 0, subchannels=(99,), psd_w_per_hz=(0.0,))
        ),
        "client 0 has subchannel 99 of 7 main ones",
    ),
    "a power too few": (
        lambda plan: _first_client(plan, main=_share(plan, 0, psd_w_per_hz=())),
        "a power of 0 or more on each main subchannel",
    ),
    "too much power": (
        lambda plan: _first_client(
            plan, main=_share(plan, 0, subchannels=(0,), psd_w_per_hz=(1.0,))
        ),
        "client 0 radiates .* on the main link",
    ),
    "the whole downlink twice": (
        lambda plan: _first_client(plan, downlink_share=1.0),
        "the downlink shares add up to",
    ),
    "a cut that is none": (
        lambda plan: _first_client(plan, split_point=9),
        "split_point of client 0 is 9",
    ),
    "no main server": (
        lambda plan: replace(plan, main_server=None),
        "main_server has split_point None",
    ),
    "a main server elsewhere": (
        lambda plan: replace(
            plan,
            main_server=replace(plan.main_server, split_point=9),  # type: ignore[type-var]
        ),
        "main_server has split_point 9",
    ),
}


@pytest.fixture(scope="module")
def planned() -> tuple[PlanningView, Plan, SplitSystem]:
    world = build_world(read_config(None, settings("training.local_steps=2")))
    view = planning_view(world.context, 0)
    state = world.context.method.planner.initial_state()
    split = world.context.method.split
    assert split is not None
    return view, world.context.method.planner.plan(view, state), split


@pytest.mark.parametrize("name", WRONG_PLANS)
def test_an_impossible_split_is_refused(name: str, planned: Any) -> None:
    view, plan, split = planned
    check_plan(view, plan, split)
    spoil, sentence = WRONG_PLANS[name]
    with pytest.raises(BrokenRoundPlanError, match=sentence):
        check_plan(view, spoil(plan), split)
