"""Merges that look at products, against plain matrices of the layer's size."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from airtune.errors import InputError
from airtune.tuning.adapter import factor_pairs
from airtune.update.means import FactorMean, factor_covariance
from airtune.update.products import FlexLora, LoraFair, fair_residual
from airtune.update.server import Update
from tests.update.adapters import MATRICES, product, random_factors

WEIGHTS = (3.0, 1.0, 2.0, 5.0)


def updates_of(seed: int, weights: Sequence[float] = WEIGHTS, scale: float = 1.0) -> list[Update]:
    return [
        Update(client, weight, random_factors(100 * seed + client, scale=scale))
        for client, weight in enumerate(weights)
    ]


def moved(state: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
    return {name: value + update.change[name] for name, value in state.items()}


def mean_product(state: dict[str, Tensor], updates: Sequence[Update], matrix: str) -> Tensor:
    """W, made in full."""
    total = sum(update.weight for update in updates)
    products = [update.weight / total * product(moved(state, update), matrix) for update in updates]
    return torch.stack(products).sum(0)


def distance(merged: dict[str, Tensor], state: dict[str, Tensor], updates: list[Update]) -> float:
    """`||W - B A||` over all matrices."""
    squares = [
        float((mean_product(state, updates, name) - product(merged, name)).square().sum())
        for name in MATRICES
    ]
    return math.sqrt(sum(squares))


@pytest.mark.parametrize("ridge", [0.0, 0.01, 3.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_correction_solves_least_squares(ridge: float, scale: float) -> None:
    """The least squares problem itself, with W made in full."""
    state, updates = random_factors(1), updates_of(2, scale=scale)
    merged = LoraFair(ridge).aggregate(state, updates)
    mean = FactorMean().aggregate(state, updates)
    for pair in factor_pairs(state):
        a, b = mean[pair.lora_a].double(), mean[pair.lora_b].double()
        wanted = mean_product(state, updates, pair.matrix) - b @ a
        weight = ridge * float((a @ a.T).trace()) / len(a)
        left = torch.cat([a.T, weight**0.5 * torch.eye(len(a), dtype=torch.float64)])
        right = torch.cat([wanted.T, torch.zeros(len(a), len(b), dtype=torch.float64)])
        best = torch.linalg.lstsq(left, right).solution.T
        found = merged[pair.lora_b].double() - b
        # Both means were rounded to fp32.
        torch.testing.assert_close(found, best, rtol=1e-3, atol=1e-6 * (1 + scale))


def test_no_other_correction_is_nearer() -> None:
    state, updates = random_factors(3), updates_of(4)
    merged, best = LoraFair(0.0).aggregate(state, updates), None
    best = distance(merged, state, updates)
    # W (I - P): what no B can reach with the rows of the mean A.
    floor = 0.0
    for pair in factor_pairs(state):
        rows = torch.linalg.qr(merged[pair.lora_a].double().T).Q
        whole = mean_product(state, updates, pair.matrix)
        floor += float((whole - whole @ rows @ rows.T).square().sum())
    assert best == pytest.approx(math.sqrt(floor), rel=1e-5)


@given(seed=st.integers(0, 10_000), ridge=st.sampled_from([0.0, 1e-3, 0.1, 10.0]))
@settings(max_examples=40, deadline=None)
def test_never_farther_than_the_mean_nor_nearer_than_the_svd(seed: int, ridge: float) -> None:
    state, updates = random_factors(seed), updates_of(seed + 1)
    fair = distance(LoraFair(ridge).aggregate(state, updates), state, updates)
    mean = distance(FactorMean().aggregate(state, updates), state, updates)
    flex = distance(FlexLora().aggregate(state, updates), state, updates)
    assert flex <= fair * (1 + 1e-5)
    assert fair <= mean * (1 + 1e-5)


def test_recorded_norms_are_those_of_the_matrices() -> None:
    state, updates = random_factors(5), updates_of(6)
    found = fair_residual(state, updates, 0.05)
    merged = LoraFair(0.05).aggregate(state, updates)
    mean = FactorMean().aggregate(state, updates)
    assert found.before == pytest.approx(distance(mean, state, updates), rel=1e-5)
    assert found.before == pytest.approx(factor_covariance(updates), rel=1e-9)
    assert found.after == pytest.approx(distance(merged, state, updates), rel=1e-4)
    moves = [merged[pair.lora_b] - mean[pair.lora_b] for pair in factor_pairs(state)]
    size = math.sqrt(sum(float(move.double().square().sum()) for move in moves))
    assert found.correction == pytest.approx(size, rel=1e-4)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_limits_of_the_correction() -> None:
    """One client, equal clients, one factor frozen, and a ridge without end: the plain mean."""
    state = random_factors(7)
    alone = updates_of(8, weights=(4.0,))
    alike = [Update(client, 1.0 + client, alone[0].change) for client in range(3)]
    frozen = [
        Update(
            u.client, u.weight, {n: 0 * x if ".lora_A." in n else x for n, x in u.change.items()}
        )
        for u in updates_of(9)
    ]
    for updates in (alone, frozen):
        assert same(LoraFair().aggregate(state, updates), FactorMean().aggregate(state, updates))
    corrected, mean = (each.aggregate(state, alike) for each in (LoraFair(), FactorMean()))
    for name, value in mean.items():
        torch.testing.assert_close(corrected[name], value, rtol=1e-6, atol=1e-6)
    stiff = LoraFair(1e12).aggregate(state, updates_of(9))
    for name, value in FactorMean().aggregate(state, updates_of(9)).items():
        torch.testing.assert_close(stiff[name], value, rtol=1e-6, atol=1e-6)


def test_a_mean_of_zero_rows_stays() -> None:
    """Two clients whose A cancel: nothing to correct along, and no division by zero."""
    state = {name: torch.zeros_like(value) for name, value in random_factors(1).items()}
    change = random_factors(2)
    back = {name: -x if ".lora_A." in name else x for name, x in change.items()}
    updates = [Update(0, 1.0, change), Update(1, 1.0, back)]
    merged = LoraFair().aggregate(state, updates)
    assert all(bool(torch.isfinite(value).all()) for value in merged.values())
    assert same(merged, FactorMean().aggregate(state, updates))


@pytest.mark.parametrize("ridge", [-0.1, math.nan, math.inf])
def test_a_ridge_that_means_nothing_is_refused(ridge: float) -> None:
    with pytest.raises(InputError, match="ridge"):
        LoraFair(ridge)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_flex_is_the_truncated_svd_of_the_mean_product(scale: float) -> None:
    state, updates = random_factors(10, scale=scale), updates_of(11, scale=scale)
    merged = FlexLora().aggregate(state, updates)
    for name, (rank, _, _) in MATRICES.items():
        whole = mean_product(state, updates, name)
        left, values, right = torch.linalg.svd(whole)
        best = left[:, :rank] * values[:rank] @ right[:rank]
        torch.testing.assert_close(product(merged, name), best, rtol=1e-4, atol=1e-5 * scale**2)
        rows = merged[f"{name}.lora_A.weight"].double()
        lengths = rows.norm(dim=1)
        torch.testing.assert_close(lengths, lengths[:1].expand_as(lengths), rtol=1e-5, atol=0)
        columns = merged[f"{name}.lora_B.weight"].double().norm(dim=0) * lengths
        torch.testing.assert_close(columns, values[:rank], rtol=1e-4, atol=1e-5 * scale**2)


def test_flex_pads_clients_of_different_rank() -> None:
    """A client of one rank: nothing of its other ranks enters, though its update carries them."""
    state, updates = random_factors(12), updates_of(13, weights=(1.0, 2.0))
    kept = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in state.items()}
    for pair in factor_pairs(state):
        kept[pair.lora_a][0], kept[pair.lora_b][:, 0] = True, True
    narrow = [Update(0, 1.0, updates[0].change, kept), updates[1]]
    merged = FlexLora().aggregate(state, narrow)
    for name, (rank, _, _) in MATRICES.items():
        first = {key: value * kept[key] for key, value in moved(state, updates[0]).items()}
        whole = product(first, name) / 3 + product(moved(state, updates[1]), name) * 2 / 3
        left, values, right = torch.linalg.svd(whole)
        best = left[:, :rank] * values[:rank] @ right[:rank]
        torch.testing.assert_close(product(merged, name), best, rtol=1e-4, atol=1e-4)


def test_flex_without_a_product_keeps_the_mean() -> None:
    """Before B has left 0 there is nothing to decompose; A must not be drawn anew."""
    state = {
        name: value if ".lora_A." in name else torch.zeros_like(value)
        for name, value in random_factors(14).items()
    }
    still = [Update(0, 1.0, {name: torch.zeros_like(x) for name, x in state.items()})]
    assert same(FlexLora().aggregate(state, still), state)
    assert same(FlexLora().aggregate(state, []), state)
    assert same(LoraFair().aggregate(state, []), state)
