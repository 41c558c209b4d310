"""Clients at tasks of their own: each has the channel and the batches of its own count."""

from dataclasses import replace

import numpy as np
import pytest

from airtune.federated.context import CohortSettings, draw_dropouts
from airtune.federated.pacing.own_tasks import at_own_tasks, own_dropouts, own_links
from airtune.round_plan import ClientPlan
from airtune.wireless.cell import CellSettings
from airtune.wireless.channel import open_channel
from airtune.workload.step import Step
from tests.federated.fakes import FakeFacts, make_context

BEGUN = {0: 3, 1: 0, 2: 7, 3: 3}


class OwnSteps(FakeFacts):
    def step_shapes(self, client: int, round_index: int) -> list[Step]:
        return [Step(client + 1, 10 * round_index + 1)]


@pytest.mark.parametrize("error_db", [0.0, 3.0])
def test_links_are_those_of_the_own_count(error_db: float) -> None:
    settings = CellSettings(path_loss="uma", csi_error_db=error_db, speed_m_s=20.0)
    channel = open_channel(settings, 4, seed=5)
    context = replace(make_context((1.0,) * 4), channel=channel)
    seen = at_own_tasks(context, BEGUN).channel.observe(99, np.arange(4))
    for client, count in BEGUN.items():
        alone = channel.observe(count, np.array([client]))
        for mixed, own in ((seen.truth, alone.truth), (seen.estimate, alone.estimate)):
            assert mixed.gain[client] == own.gain[client]
            assert np.array_equal(mixed.position_m[client], own.position_m[client])
        band = np.array([1e5])
        full = ClientPlan(client, 1e5, float(context.tx_power_w[client]), 1)
        mine = own_links(context, count, full).rate(band)
        whole = seen.truth.uplink(context.tx_power_w).rate(np.full(4, 1e5))
        assert whole[client] == mine[0]
        less = own_links(context, count, replace(full, tx_power_w=full.tx_power_w / 4))
        assert less.rate(band)[0] < mine[0]
    assert len(set(seen.truth.gain)) == 4


def test_batches_and_dropouts_are_those_of_the_own_count() -> None:
    context = make_context((1.0,) * 4, cohort=CohortSettings(dropout=0.5))
    context = replace(context, costs=replace(context.costs, facts=OwnSteps()))
    facts = at_own_tasks(context, BEGUN).costs.facts
    silent: set[int] = set()
    for client, count in BEGUN.items():
        assert facts.step_shapes(client, 99) == [Step(client + 1, 10 * count + 1)]
        silent |= draw_dropouts(context.cohort, np.array([client]), context.seed, count)
    assert own_dropouts(context, BEGUN, list(BEGUN)) == silent
