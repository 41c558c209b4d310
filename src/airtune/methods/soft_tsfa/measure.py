"""SOFT's three error terms, of quantities that a round measures.

In the manner of the bound of Kim and Choi, arXiv 2505.00333, in our reading: the error of one
round's update consists of what the structural rank cannot represent, what sparsification drops, and
the covariance that averaging factors leaves out. Each is an energy, a squared Frobenius norm of a
part of the update of all adapted matrices, so that they add up to J(r) of the offline stage.
Left out: the constants of the bound (smoothness, step size), which are unknown, and the scale
alpha / r, which multiplies all three alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from airtune.update.means import factor_covariance
from airtune.update.rank_sparse import change_importance, energies
from airtune.update.server import Update
from airtune.update.weighting import normalised, relative_shares


@dataclass(frozen=True)
class SoftTerms:
    """The three terms of a round, each an energy, and the energy of the update itself.

    Attributes:
        update: `sum_n w_n ||d(B A)_n||^2` of everything that was trained.
        rank: `truncated share x update`; None where no rank search measured that share.
        sparsification: `sum_n w_n (energy of the ranks that n did not send)`.
        covariance: `||sum_n w_n (B_n - Bbar)(A_n - Abar)||^2`.
    """

    update: float
    rank: float | None
    sparsification: float
    covariance: float


def soft_terms(
    start: Mapping[str, Tensor],
    updates: Sequence[Update],
    dropped_share: Sequence[float],
    truncated_share: float | None = None,
) -> SoftTerms:
    """The terms from what the server holds.

    A client's sent energy is computed from what it sent; with the share that it reports as dropped,
    that gives what it dropped: `dropped = sent x share / (1 - share)`.

    Args:
        start: the adapter that training began from.
        updates: as decoded, with weights.
        dropped_share: of each client's energy, in [0, 1), in the order of the updates.
        truncated_share: of ||dW||^2, from a rank search at this rank.
    """
    kept = dropped = 0.0
    counts = normalised(relative_shares(updates)[0])
    for update, count, share in zip(updates, counts, dropped_share, strict=True):
        sent = sent_energy(start, update.change)
        kept += count * sent
        dropped += count * (sent * share / (1.0 - share) if share < 1.0 else 0.0)
    whole = kept + dropped
    return SoftTerms(
        whole,
        None if truncated_share is None else truncated_share * whole,
        dropped,
        factor_covariance(updates) ** 2,
    )


def sent_energy(start: Mapping[str, Tensor], change: Mapping[str, Tensor]) -> float:
    """`sum over ranks of ||b a^T - b0 a0^T||^2`: the change's energy where ranks do not overlap."""
    terms = energies(change_importance(start, change))
    return sum(float(values.double().sum()) for values in terms.values())
