"""The offline choice of the structural rank."""

from typing import Any

import numpy as np
import pytest

from airtune.allocation.sparsity.problem import SparsityProblem
from airtune.allocation.sparsity.rank_choice import RankMeasurement, choose_rank
from airtune.allocation.sparsity.solvers import fixed_sparsity
from airtune.errors import InfeasibleError, InputError
from airtune.wireless.rate import ShannonLinks

RANKS = (1, 2, 4, 8, 16, 32)
SPECTRUM = 0.7 ** np.arange(64)
SPECTRUM /= SPECTRUM.sum()
LINKS = ShannonLinks(np.array([1e7, 3e6, 2e7, 8e6]))


def measured(rank: int, **changes: Any) -> RankMeasurement:
    """An update with a geometric spectrum, and a covariance that grows with the rank."""
    values: dict[str, Any] = {
        "rank": rank,
        "truncated": float(SPECTRUM[rank:].sum()),
        "rank_energy": SPECTRUM[:rank],
        "covariance": 0.002 * rank,
        "rank_payload_bits": 2e5,
        "compute_delay_s": np.full(4, 0.2) + 0.005 * rank,
    }
    return RankMeasurement(**{**values, **changes})


def plain_kept(rank: int, band: float, target: float) -> int:
    """The most ranks with which the round ends in time, by solving the round."""
    best = 0
    for kept in range(1, rank + 1):
        problem = SparsityProblem(
            LINKS, band, np.full(4, 0.2 + 0.005 * rank), np.ones((4, kept)), np.full(4, 2e5), 1e6
        )
        plan = fixed_sparsity(problem, 0.0, prove=False).plan
        assert plan is not None
        best = kept if plan.latency_s <= target else best
    return best


@pytest.mark.parametrize(("band", "target"), [(2e6, 2.0), (6e5, 3.0), (3e5, 4.0), (5e7, 1.0)])
def test_scores_are_the_three_shares_at_the_forced_sparsity(band: float, target: float) -> None:
    choice = choose_rank([measured(rank) for rank in RANKS], LINKS, band, target)
    for score, rank in zip(choice.scores, RANKS, strict=True):
        kept = plain_kept(rank, band, target)
        assert score.rank == rank
        assert score.in_time == (kept > 0)
        kept = max(kept, 1)
        assert score.kept == kept
        assert score.sparsity == 1 - kept / rank
        assert score.truncated == pytest.approx(SPECTRUM[rank:].sum())
        assert score.dropped == pytest.approx(SPECTRUM[kept:rank].sum())
        assert score.total == pytest.approx(SPECTRUM[kept:].sum() + 0.002 * rank)
    totals = [score.total for score in choice.scores]
    assert choice.best.total == min(totals)


def test_a_wide_band_takes_a_higher_rank_than_a_narrow_one() -> None:
    wide = choose_rank([measured(rank) for rank in RANKS], LINKS, 2e7, 2.0).best.rank
    narrow = choose_rank([measured(rank) for rank in RANKS], LINKS, 3e5, 2.0).best.rank
    assert wide > narrow


def test_the_order_of_the_energies_and_of_the_candidates_does_not_matter() -> None:
    forward = choose_rank([measured(rank) for rank in RANKS], LINKS, 1e6, 2.0)
    backward = choose_rank(
        [measured(rank, rank_energy=SPECTRUM[:rank][::-1]) for rank in RANKS[::-1]], LINKS, 1e6, 2.0
    )
    assert forward.best.rank == backward.best.rank
    assert [s.total for s in forward.scores] == pytest.approx([s.total for s in backward.scores])


def test_weights_and_ties() -> None:
    both = [measured(4, covariance=0.0), measured(8, covariance=0.0)]
    assert choose_rank(both, LINKS, 3e5, 1.5, weights=(0.0, 0.0, 1.0)).best.rank == 4
    heavy = choose_rank([measured(r) for r in RANKS], LINKS, 5e7, 2.0, weights=(1.0, 1.0, 100.0))
    assert heavy.best.rank < choose_rank([measured(r) for r in RANKS], LINKS, 5e7, 2.0).best.rank


def test_a_rank_that_is_late_even_alone_is_not_chosen() -> None:
    slow = measured(8, compute_delay_s=np.array([0.1, 0.1, 9.0, 0.1]), truncated=0.0)
    choice = choose_rank([measured(1), slow], LINKS, 2e6, 2.0)
    assert choice.best.rank == 1
    assert not choice.scores[1].in_time


def test_refuses() -> None:
    with pytest.raises(InfeasibleError, match="Not even one rank"):
        choose_rank([measured(1)], LINKS, 1e3, 0.3)
    for bad in ([], [measured(2), measured(2)]):
        with pytest.raises(InputError, match="measured ranks"):
            choose_rank(bad, LINKS, 1e6, 2.0)
    with pytest.raises(InputError, match="rank_energy at rank 4"):
        measured(4, rank_energy=np.ones(3))
    with pytest.raises(InputError, match="truncated at rank 4"):
        measured(4, truncated=float("nan"))
