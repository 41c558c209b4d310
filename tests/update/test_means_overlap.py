"""The overlap mean against one loop per coordinate."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from airtune.update.means import FactorMean, OverlapMean
from airtune.update.server import Update

SHAPES = {"a": (2, 5), "b": (7, 2)}


def make_updates(seed: int, count: int) -> list[Update]:
    draws = np.random.default_rng(seed)
    updates = []
    for client in range(count):
        kept = {name: torch.from_numpy(draws.random(shape) < 0.5) for name, shape in SHAPES.items()}
        change = {
            name: torch.from_numpy(draws.normal(size=shape)).float() * kept[name]
            for name, shape in SHAPES.items()
        }
        updates.append(Update(client, float(draws.integers(1, 9)), change, kept))
    return updates


def make_state(seed: int) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=source) for name, shape in SHAPES.items()}


def plain_overlap_mean(
    state: Mapping[str, Tensor], updates: Sequence[Update]
) -> dict[str, np.ndarray]:
    """Coordinate by coordinate, client by client."""
    merged = {}
    for name, value in state.items():
        result = value.numpy().astype(np.float64)
        for place in np.ndindex(*value.shape):
            those = [u for u in updates if u.kept is None or bool(u.kept[name][place])]
            if those:
                weight = sum(u.weight for u in those)
                result[place] += (
                    sum(u.weight * float(u.change[name][place]) for u in those) / weight
                )
        merged[name] = result
    return merged


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_against_the_plain_twin(seed: int, count: int) -> None:
    state, updates = make_state(seed), make_updates(seed, count)
    merged, plain = OverlapMean().aggregate(state, updates), plain_overlap_mean(state, updates)
    for name in state:
        np.testing.assert_allclose(merged[name].numpy(), plain[name], rtol=1e-6, atol=1e-7)


def test_whole_updates_count_everywhere() -> None:
    state, updates = make_state(3), make_updates(3, 3)
    updates.append(Update(9, 2.0, make_state(4)))
    merged, plain = OverlapMean().aggregate(state, updates), plain_overlap_mean(state, updates)
    for name in state:
        np.testing.assert_allclose(merged[name].numpy(), plain[name], rtol=1e-6, atol=1e-7)


def test_without_pruning_it_is_the_factor_mean_to_the_bit() -> None:
    state = make_state(1)
    updates = [Update(client, 0.3 + client, make_state(client)) for client in range(5)]
    kept = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    full = [Update(u.client, u.weight, u.change, kept) for u in updates]
    expected = FactorMean().aggregate(state, updates)
    for given_updates in (updates, full):
        merged = OverlapMean().aggregate(state, given_updates)
        assert all(torch.equal(merged[name], expected[name]) for name in state)


def test_what_nobody_kept_stays_and_what_one_kept_follows_it() -> None:
    state = {"a": torch.tensor([[1.0, 2.0, 3.0]])}
    first = Update(
        0, 1.0, {"a": torch.tensor([[10.0, 0.0, 1.0]])}, {"a": torch.tensor([[True, False, True]])}
    )
    second = Update(
        1, 3.0, {"a": torch.tensor([[0.0, 0.0, 5.0]])}, {"a": torch.tensor([[False, False, True]])}
    )
    merged = OverlapMean().aggregate(state, [first, second])["a"]
    assert torch.equal(merged, torch.tensor([[11.0, 2.0, 3.0 + (1 * 1 + 3 * 5) / 4]]))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_only_relative_weights_count(scale: float) -> None:
    state, updates = make_state(5), make_updates(5, 4)
    scaled = [Update(u.client, u.weight * scale, u.change, u.kept) for u in updates]
    one, two = (OverlapMean().aggregate(state, x) for x in (updates, scaled))
    for name in state:
        torch.testing.assert_close(one[name], two[name], rtol=1e-6, atol=0)


def test_a_change_outside_the_mask_does_not_count() -> None:
    state, kept = {"a": torch.ones(1, 2)}, {"a": torch.tensor([[True, False]])}
    stray = Update(0, 1.0, {"a": torch.tensor([[1.0, 8.0]])}, kept)
    merged = OverlapMean().aggregate(state, [stray])["a"]
    assert torch.equal(merged, torch.tensor([[2.0, 1.0]]))


def test_no_updates_no_change() -> None:
    state = make_state(6)
    merged = OverlapMean().aggregate(state, [])
    assert all(torch.equal(merged[name], state[name]) for name in state)
