"""Importances against plain norms of rank-one terms; selection against a plain sort."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from airtune.errors import InputError
from airtune.update.rank_sparse import (
    change_importance,
    changed_ranks,
    counts_global,
    counts_per_layer,
    dropped_share,
    energies,
    largest_ranks,
    norm_importance,
)
from airtune.update.svd import truncated_product
from tests.update.adapters import MATRICES, orthogonal_factors, product, random_factors


def term(state: dict[str, Tensor], matrix: str, rank: int) -> Tensor:
    """b_i a_i^T in fp64."""
    a, b = state[f"{matrix}.lora_A.weight"].double(), state[f"{matrix}.lora_B.weight"].double()
    return torch.outer(b[:, rank], a[rank])


def moved(start: dict[str, Tensor], change: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: start[name].double() + tensor.double() for name, tensor in change.items()}


def keep(state: dict[str, Tensor], matrix: str, mask: Tensor) -> Tensor:
    a, b = state[f"{matrix}.lora_A.weight"].double(), state[f"{matrix}.lora_B.weight"].double()
    return b[:, mask] @ a[mask]


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_norm_importance_is_the_norm_of_each_term(scale: float) -> None:
    state = random_factors(1, scale=scale)
    for matrix, values in norm_importance(state).items():
        expected = [float(term(state, matrix, i).norm()) for i in range(len(values))]
        assert values.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [1e-8, 1e-6, 1e-4, 1e-2, 1.0, 100.0])
def test_change_importance_keeps_its_digits_at_any_size(size: float) -> None:
    start, change = random_factors(2), random_factors(3, scale=size)
    now = moved(start, change)
    importance = change_importance(start, change)
    for matrix, (rank, _, _) in MATRICES.items():
        for i in range(rank):
            expected = float((term(now, matrix, i) - term(start, matrix, i)).norm())
            # At 1e-8 fp64 itself keeps half its digits in the difference of two terms.
            assert float(importance[matrix][i]) == pytest.approx(expected, rel=3e-6)


def test_the_expanded_form_would_lose_everything() -> None:
    """Why the formula is written as it is: fp32, a change of 1e-4."""
    start, change = random_factors(2), random_factors(3, scale=1e-4)
    now = {name: start[name] + tensor for name, tensor in change.items()}
    a0, b0 = start["x.lora_A.weight"], start["x.lora_B.weight"]
    a, b = now["x.lora_A.weight"], now["x.lora_B.weight"]
    expanded = (
        (b.square().sum(0) * a.square().sum(1))
        + (b0.square().sum(0) * a0.square().sum(1))
        - 2 * (b * b0).sum(0) * (a * a0).sum(1)
    )
    exact = change_importance(start, change)["x"].square()
    assert ((expanded - exact).abs() / exact).max() > 0.05


def test_change_importance_at_its_limits() -> None:
    start, change = random_factors(4), random_factors(5)
    nothing = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
    assert all(not values.any() for values in change_importance(start, nothing).values())
    # From nothing, the change is the whole adapter.
    whole = change_importance(nothing, change)
    for matrix, values in norm_importance(change).items():
        torch.testing.assert_close(whole[matrix], values)
    # b doubled and a halved: the term is the same, and so nothing changed.
    same = {k: (v if "lora_B" in k else -0.5 * v) for k, v in start.items()}
    for values in change_importance(start, same).values():
        assert values.max() < 1e-2


def test_rescaling_between_the_factors_changes_nothing() -> None:
    start, change = random_factors(6), random_factors(7, scale=0.3)
    scale = {k: (8.0 if "lora_A" in k else 0.125) for k in start}
    for one, two in (
        (norm_importance(start), norm_importance({k: v * scale[k] for k, v in start.items()})),
        (
            change_importance(start, change),
            change_importance(
                {k: v * scale[k] for k, v in start.items()},
                {k: v * scale[k] for k, v in change.items()},
            ),
        ),
    ):
        assert all(torch.allclose(one[m], two[m], rtol=1e-6, atol=0) for m in one)


@given(st.integers(0, 10_000), st.integers(0, 4))
def test_with_orthogonal_factors_top_k_is_the_truncated_svd(seed: int, kept: int) -> None:
    state = orthogonal_factors(seed)
    importance = norm_importance(state)
    counts = [min(kept, rank) for rank, _, _ in MATRICES.values()]
    masks = largest_ranks(importance, counts)
    for (matrix, mask), count in zip(masks.items(), counts, strict=True):
        whole = product(state, matrix)
        left, values, right = torch.linalg.svd(whole, full_matrices=False)
        best = left[:, :count] * values[:count] @ right[:count]
        torch.testing.assert_close(keep(state, matrix, mask), best, rtol=1e-4, atol=1e-4)
        strongest = importance[matrix].sort(descending=True).values[:count].double()
        torch.testing.assert_close(strongest, values[:count], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_truncated_product_is_the_svd_of_the_product(kept: int) -> None:
    state = random_factors(8)
    a, b = truncated_product(state["y.lora_A.weight"], state["y.lora_B.weight"], kept)
    left, values, right = torch.linalg.svd(product(state, "y"), full_matrices=False)
    best = left[:, :kept] * values[:kept] @ right[:kept]
    torch.testing.assert_close((b @ a).double(), best, rtol=1e-4, atol=1e-4)


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=4), st.data()
)
def test_largest_ranks_against_a_plain_sort(values: list[list[int]], data: st.DataObject) -> None:
    """Few different values, so that ties are everywhere."""
    importance = {f"m{i}": torch.tensor(row, dtype=torch.float32) for i, row in enumerate(values)}
    counts = [data.draw(st.integers(0, len(row))) for row in values]
    masks = largest_ranks(importance, counts)
    for (matrix, row), count in zip(enumerate(values), counts, strict=True):
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))
        assert masks[f"m{matrix}"].nonzero()[:, 0].tolist() == sorted(order[:count])


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=5), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.75, 0.99]),
)
def test_global_counts_against_a_plain_sort(values: list[list[int]], sparsity: float) -> None:
    flat = [(-value, i, j) for i, row in enumerate(values) for j, value in enumerate(row)]
    total = max(1, round(len(flat) - (sparsity * len(flat) + 1e-9) // 1))
    chosen = sorted(flat)[:total]
    importance = {f"m{i}": torch.tensor(row, dtype=torch.float32) for i, row in enumerate(values)}
    counts = counts_global(importance, sparsity)
    assert list(counts) == [sum(i == m for _, i, _ in chosen) for m in range(len(values))]


def test_global_selection_drops_no_more_energy_than_per_layer() -> None:
    importance = norm_importance(random_factors(9))
    ranks = [len(values) for values in importance.values()]
    for sparsity in (0.25, 0.5):
        per_layer = counts_per_layer(ranks, sparsity)
        share = 1 - sum(per_layer) / sum(ranks)
        everywhere = counts_global(importance, share)
        assert sum(everywhere) == sum(per_layer)
        assert dropped_share(importance, largest_ranks(importance, everywhere)) <= dropped_share(
            importance, largest_ranks(importance, per_layer)
        )


@pytest.mark.parametrize(
    ("sparsity", "counts"),
    [(0.0, (10, 4, 1)), (0.3, (7, 3, 1)), (0.5, (5, 2, 1)), (0.75, (3, 1, 1)), (0.99, (1, 1, 1))],
)
def test_counts_per_layer_by_hand(sparsity: float, counts: tuple[int, ...]) -> None:
    assert counts_per_layer((10, 4, 1), sparsity) == counts


def test_dropped_share_is_the_squared_error_of_orthogonal_factors() -> None:
    state = orthogonal_factors(11)
    importance = norm_importance(state)
    masks = largest_ranks(importance, (1, 2, 0))
    error = sum(float((product(state, m) - keep(state, m, masks[m])).norm()) ** 2 for m in masks)
    total = sum(float(product(state, m).norm()) ** 2 for m in masks)
    assert dropped_share(importance, masks) == pytest.approx(error / total, rel=1e-5)
    assert float(energies(importance)["x"].sum()) == pytest.approx(
        float(product(state, "x").norm()) ** 2, rel=1e-5
    )
    everything = {matrix: torch.ones_like(mask) for matrix, mask in masks.items()}
    assert dropped_share(importance, everything) == 0.0
    nothing = {matrix: torch.zeros_like(values) for matrix, values in importance.items()}
    assert dropped_share(nothing, masks) == 0.0


def test_changed_ranks() -> None:
    change = {k: torch.zeros_like(v) for k, v in random_factors(1).items()}
    change["x.lora_A.weight"][1, 3] = 1e-30
    change["y.lora_B.weight"][0, 2] = -4.0
    masks = changed_ranks(change)
    assert masks["x"].tolist() == [False, True, False]
    assert masks["y"].tolist() == [False, False, True, False]
    assert not masks["z"].any()


@pytest.mark.parametrize("kept", [(1, 1), (4, 1, 1), (-1, 1, 1)])
def test_senseless_counts_are_refused(kept: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="kept ranks"):
        largest_ranks(norm_importance(random_factors(1)), kept)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_senseless_sparsities_are_refused(sparsity: float) -> None:
    with pytest.raises(InputError, match="sparsity"):
        counts_per_layer((4,), sparsity)
    with pytest.raises(InputError, match="sparsity"):
        counts_global({"m": torch.ones(4)}, sparsity)
