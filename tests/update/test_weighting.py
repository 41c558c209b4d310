"""Shares: set beside the aggregator, used by every mean, and by default a division of weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.federated.checks.capabilities import check_parts
from airtune.federated.checks.contracts import BrokenContractError, check_aggregator
from airtune.federated.method import Method
from airtune.federated.round import run_round
from airtune.round_plan import MAIN_SERVER
from airtune.tuning.adapter import factor_pairs
from airtune.update.means import (
    FactorMean,
    HalvesMean,
    OverlapMean,
    SentMean,
    ZeroPaddedMean,
    factor_covariance,
)
from airtune.update.products import FlexLora, LoraFair
from airtune.update.server import Aggregator, Update
from airtune.update.svd import SvdGauge
from airtune.update.weighting import Occasion, Weighting, full_step, shares_of, weighed
from tests.federated.fakes import make_context
from tests.federated.test_round import begin
from tests.update.adapters import product, random_factors

WEIGHTS = (3.0, 1.0, 2.0)
MEANS: list[Aggregator] = [FactorMean(), OverlapMean(), SentMean(), SvdGauge(FactorMean())]
ALL = [*MEANS, FlexLora(), LoraFair()]


def updates_of(shares: Sequence[float | None], masked: bool = False) -> list[Update]:
    updates = []
    for client, (weight, share) in enumerate(zip(WEIGHTS, shares, strict=True)):
        change = random_factors(10 + client, scale=0.3)
        kept = None
        if masked:
            draws = torch.Generator().manual_seed(client)
            kept = {
                name: torch.rand(value.shape, generator=draws) < 0.6
                for name, value in change.items()
            }
            change = {name: value * kept[name] for name, value in change.items()}
        updates.append(Update(client, weight, change, kept, share=share))
    return updates


NONE = updates_of([None] * 3)


@dataclass(frozen=True)
class Fixed(Weighting):
    values: tuple[float, ...]

    def shares(self, updates: Sequence[Update], occasion: Occasion) -> Sequence[float]:
        return self.values[: len(updates)]


def test_without_a_weighting_a_share_is_the_division_of_before() -> None:
    """To the bit: `weight / sum`, the sum taken in client order."""
    draws = np.random.default_rng(0)
    for _ in range(200):
        weights = draws.uniform(0.1, 1e6, size=7)
        updates = [Update(n, float(w), {}) for n, w in enumerate(weights)]
        total = sum(update.weight for update in updates)
        assert shares_of(updates) == [update.weight / total for update in updates]


@pytest.mark.parametrize("aggregator", ALL, ids=lambda part: type(part).__name__)
@pytest.mark.parametrize("masked", [False, True])
def test_weights_given_as_shares_merge_alike(aggregator: Aggregator, masked: bool) -> None:
    state, plain = random_factors(1), updates_of([None] * 3, masked)
    given = [replace(u, weight=1.0, share=s) for u, s in zip(plain, shares_of(plain), strict=True)]
    for name, value in aggregator.aggregate(state, plain).items():
        torch.testing.assert_close(
            aggregator.aggregate(state, given)[name], value, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("masked", [False, True])
def test_shares_that_do_not_sum_to_one(masked: bool) -> None:
    """Per coordinate: the mean over those that kept it, times the sum of all shares."""
    shares = (0.9, 0.1, 0.7)
    state, updates = random_factors(1), updates_of(shares, masked)
    merged = OverlapMean().aggregate(state, updates)
    for name, value in state.items():
        kept = torch.stack([(u.kept or {}).get(name, torch.ones_like(value)) for u in updates])
        parts = torch.tensor(shares, dtype=torch.float64)[:, None, None] * kept
        changes = torch.stack([u.change[name] for u in updates]).double()
        mean = ((parts * changes).sum(0) / parts.sum(0)).nan_to_num(nan=0.0)
        torch.testing.assert_close(merged[name], (value + sum(shares) * mean).float())
    if not masked:
        plain = FactorMean().aggregate(state, updates)
        for name, value in state.items():
            sums = sum(s * u.change[name].double() for s, u in zip(shares, updates, strict=True))
            torch.testing.assert_close(plain[name], (value + sums).float())


def test_products_are_mixed_by_shares() -> None:
    """FlexLoRA keeps `1 - S` of the server's product: of rank 2 r, so its best approximation."""
    shares = (0.2, 0.1, 0.3)
    state, updates = random_factors(1), updates_of(shares)
    merged = FlexLora().aggregate(state, updates)
    for pair in factor_pairs(state):
        wanted = (1.0 - sum(shares)) * product(state, pair.matrix)
        for share, update in zip(shares, updates, strict=True):
            trained = {name: value + update.change[name] for name, value in state.items()}
            wanted = wanted + share * product(trained, pair.matrix)
        left, values, right = torch.linalg.svd(wanted)
        rank = len(state[pair.lora_a])
        best = left[:, :rank] * values[:rank] @ right[:rank]
        torch.testing.assert_close(product(merged, pair.matrix), best, rtol=1e-4, atol=1e-4)


def test_a_corrected_mean_moves_part_of_the_way() -> None:
    state, updates = random_factors(1), updates_of((0.2, 0.1, 0.3))
    whole, step = full_step(updates)
    assert step == pytest.approx(0.6)
    target, merged = LoraFair().aggregate(state, whole), LoraFair().aggregate(state, updates)
    for name, value in state.items():
        torch.testing.assert_close(merged[name], value + step * (target[name] - value))


def test_halves_move_part_of_the_way() -> None:
    state = random_factors(1)
    names = list(state)
    client = {name: torch.ones_like(state[name]) for name in names[:2]}
    server = {name: torch.ones_like(state[name]) for name in names[2:]}
    updates = [
        Update(MAIN_SERVER, 0.0, server),
        Update(0, 4.0, client, share=0.5),
        Update(1, 9.0, {name: 3.0 * value for name, value in client.items()}, share=0.0),
    ]
    merged = HalvesMean().aggregate(state, updates)
    for name, value in state.items():
        torch.testing.assert_close(merged[name], value + 0.5)
    nothing = [replace(u, share=None if u.client == MAIN_SERVER else 0.0) for u in updates]
    for name, value in HalvesMean().aggregate(state, nothing).items():
        torch.testing.assert_close(value, state[name])


@pytest.mark.parametrize("aggregator", [*MEANS[:3], LoraFair()], ids=lambda p: type(p).__name__)
def test_the_contract_covers_shares(aggregator: Aggregator) -> None:
    check_aggregator(aggregator, random_factors(1), NONE)


def test_a_mean_that_ignores_shares_breaks_its_contract() -> None:
    class Deaf(Aggregator):
        uses_shares = True

        def aggregate(
            self, state: Mapping[str, Tensor], updates: Sequence[Update]
        ) -> dict[str, Tensor]:
            return FactorMean().aggregate(state, [replace(u, share=None) for u in updates])

    with pytest.raises(BrokenContractError, match="shares of 0"):
        check_aggregator(Deaf(), random_factors(1), NONE)


def test_the_covariance_follows_the_shares() -> None:
    doubled = [
        replace(u, weight=1.0, share=2.0 * s) for u, s in zip(NONE, shares_of(NONE), strict=True)
    ]
    assert factor_covariance(doubled) == pytest.approx(factor_covariance(NONE))


def test_a_weighting_sets_shares_in_a_round_and_its_record() -> None:
    context = make_context()
    context = replace(context, method=replace(context.method, weighting=Fixed((0.5, 0.0, 2.0))))
    outcome = run_round(context, begin())
    # Client n moves by n: 0.5 * 0 + 0 * 1 + 2 * 2.
    assert torch.equal(outcome.state.adapter["x"], torch.full((2,), 4.0))
    assert [entry["share"] for entry in outcome.record["clients"]] == [0.5, 0.0, 2.0]
    assert "share" not in run_round(make_context(), begin()).record["clients"][0]


@pytest.mark.parametrize("values", [(0.5, -0.1, 1.0), (0.5, float("nan"), 1.0), (1.0,)])
def test_shares_that_are_none_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="shares of updates"):
        weighed(Fixed(values), NONE, Occasion(0, np.ones(3)))


def test_the_main_server_has_no_share() -> None:
    updates = [Update(MAIN_SERVER, 0.0, {}), *NONE]
    made = weighed(Fixed((0.1, 0.2, 0.3)), updates, Occasion(0, np.ones(3)))
    assert [update.share for update in made] == [None, 0.1, 0.2, 0.3]


def test_shares_beside_an_aggregator_that_has_its_own() -> None:
    method: Method = make_context().method
    check_parts(replace(method, weighting=Fixed((1.0,))))
    with pytest.raises(InputError, match="one that uses shares, since Fixed sets them"):
        check_parts(replace(method, aggregator=ZeroPaddedMean(), weighting=Fixed((1.0,))))
