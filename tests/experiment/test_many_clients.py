"""More clients than one group of rays, or than subchannels: rounds are planned, or refused."""

import pytest

from airtune.advising.draws import draw_rounds
from airtune.advising.opening import Opened, Opener
from airtune.errors import InfeasibleError
from airtune.experiment.reading import read_config
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.round import start_round
from airtune.methods.registry import shipped_methods
from airtune.wireless.tr38901 import GROUP

MANY = 2 * GROUP + 8
"""Clients of three groups."""
METHODS = [
    name
    for name, spec in shipped_methods().items()
    if spec.compose is not None and name != "centralised"
]


def opened(*changes: str) -> Opened:
    opener = Opener()
    config = read_config(None, [f"clients.count={MANY}", "data.score_rows=0", *changes])
    return opener.compose(opener.load(config)).settled()


@pytest.mark.parametrize("cell", ["uma", "umi", "log_distance"])
def test_a_small_part_of_many_clients(cell: str) -> None:
    """Fading is drawn for the groups of the cohort alone; the others have no gain at all."""
    few = opened("cohort.size=2", f"cell.path_loss={cell}")
    rounds = draw_rounds(few, 3)
    assert [len(one.skipped) for one in rounds] == [0, 0, 0]
    assert all(one.latency_s == pytest.approx(one.planned_latency_s) for one in rounds)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_plans_a_few_of_many_clients(method: str) -> None:
    # One method draws its cohort itself.
    size = () if method == "sampled_lora" else ("cohort.size=2",)
    for one in draw_rounds(opened(f"method={method}", *size), 2):
        assert one.latency_s == pytest.approx(one.planned_latency_s)


@pytest.mark.parametrize("method", ["sflllm", "hsfl", "epsl", "fedsl"])
def test_more_clients_than_subchannels(method: str) -> None:
    with pytest.raises(InfeasibleError, match=rf"has 20 subchannels for {MANY} clients"):
        context = opened(f"method={method}").context
        start_round(context, ServerState({}, planner=context.method.planner.initial_state()))
