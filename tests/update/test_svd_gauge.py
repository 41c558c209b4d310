"""The gauge of the SVD: the same product, orthogonal factors, singular values as norms."""

import pytest
import torch
from torch import Tensor

from airtune.tuning.orthogonality import mean_cosine
from airtune.update.means import FactorMean
from airtune.update.rank_sparse import norm_importance
from airtune.update.server import Update
from airtune.update.svd import SvdGauge, svd_gauge
from tests.update.adapters import MATRICES, orthogonal_factors, product, random_factors


def gauged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Through the aggregator, with one update that changes nothing."""
    nothing = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    return SvdGauge(FactorMean()).aggregate(state, [Update(0, 1.0, nothing)])


# One whose output is narrower than its rank: B has zero columns then.
WIDE = {**MATRICES, "narrow": (6, 8, 3)}


@pytest.mark.parametrize("seed", range(3))
def test_same_product_in_orthogonal_factors(seed: int) -> None:
    state = random_factors(seed, WIDE)
    after = gauged(state)
    cosine = mean_cosine(after)
    assert max(cosine.lora_a, cosine.lora_b) < 1e-6
    assert mean_cosine(state).lora_a > 0.1
    for matrix, (rank, width, out) in WIDE.items():
        whole = product(state, matrix)
        assert torch.allclose(product(after, matrix), whole, atol=1e-5)
        # Against numpy's own SVD of the whole product, which the code never makes.
        expected = torch.linalg.svdvals(whole)[: min(rank, out, width)]
        found = norm_importance(after)[matrix].double().sort(descending=True).values
        assert torch.allclose(found[: len(expected)], expected, rtol=1e-5, atol=1e-5)
        assert torch.all(found[len(expected) :] < 1e-5)


def test_size_of_a_is_kept_and_all_its_rows_are_equally_long() -> None:
    state = random_factors(4)
    after = gauged(state)
    for name in state:
        if "lora_A" in name:
            assert float(after[name].norm()) == pytest.approx(float(state[name].norm()), rel=1e-6)
            lengths = after[name].norm(dim=1)
            assert torch.allclose(lengths, lengths.mean().expand_as(lengths), rtol=1e-5)


def test_orthogonal_factors_stay_where_they_are() -> None:
    """Order and signs are those of before, so what a client remembers by position still fits."""
    state = gauged(orthogonal_factors(5))
    again = gauged(state)
    for name, tensor in state.items():
        assert torch.allclose(again[name], tensor, atol=1e-5)


def test_a_small_change_moves_little() -> None:
    state = gauged(random_factors(6))
    push = random_factors(7, scale=1e-5)
    after = gauged({name: tensor + push[name] for name, tensor in state.items()})
    for name, tensor in state.items():
        assert torch.allclose(after[name], tensor, atol=1e-2)


def test_b_at_zero_keeps_a_orthogonal_and_the_product_zero() -> None:
    a = torch.linalg.qr(torch.randn(6, 4, generator=torch.Generator().manual_seed(0))).Q.T
    after_a, after_b = svd_gauge(a, torch.zeros(5, 4))
    assert not after_b.any()
    assert torch.allclose(after_a @ after_a.T, torch.eye(4), atol=1e-6)


@pytest.mark.parametrize(
    ("a", "b"), [(torch.zeros(2, 6), torch.ones(5, 2)), (torch.ones(8, 6), torch.ones(5, 8))]
)
def test_what_has_no_such_gauge_stays(a: Tensor, b: Tensor) -> None:
    after_a, after_b = svd_gauge(a, b)
    assert torch.equal(after_a, a)
    assert torch.equal(after_b, b)
