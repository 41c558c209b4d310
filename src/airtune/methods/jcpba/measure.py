"""JCPBA's pruning term, of quantities that a round measures.

In the manner of the bound of Pang et al., arXiv 2602.01024, in our reading: training a pruned copy
adds an error in proportion to `sum_n w_n ||W - W_n||^2`, W_n the weights that client n kept. A
pruning rate stands in for it: unit by unit `||W - W_n||^2 <= rho_n ||W||^2` if the units removed
are no larger than the average one. That is what the budget `sum_n w_n rho_n <= Gamma` limits.
Left out: the constants of the bound (smoothness, step size, number of rounds).
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PruningTerm:
    """Both sides of that inequality, as shares of ||W||^2 of the prunable weights.

    Attributes:
        bound: `sum_n w_n rho_n`, what the budget limits.
        measured: `sum_n w_n ||W - W_n||^2 / ||W||^2`; below `bound` as far as importance works.
    """

    bound: float
    measured: float


def pruning_term(
    weights: Sequence[float], rates: Sequence[float], removed_share: Sequence[float]
) -> PruningTerm:
    """The term of a round.

    Args:
        weights: of the clients, divided by their sum here.
        rates: rho_n, the share of the units removed.
        removed_share: of the prunable weights' energy that client n's slice leaves out.
    """
    total = sum(weights)
    return PruningTerm(
        sum(w * rate for w, rate in zip(weights, rates, strict=True)) / total,
        sum(w * share for w, share in zip(weights, removed_share, strict=True)) / total,
    )
