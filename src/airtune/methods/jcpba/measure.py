"""JCPBA's pruning term, of quantities that a round measures.

In the manner of the bound of Pang et al., arXiv 2602.01024, in our reading: training a pruned copy
adds an error in proportion to `sum_n w_n ||W - W_n||^2`, W_n the weights that client n kept. A
pruning rate replaces it: unit by unit `||W - W_n||^2 <= rho_n ||W||^2` if the units removed
are no larger than the average one. That is what the budget `sum_n w_n rho_n <= Gamma` limits.
Left out: the constants of the bound (smoothness, step size, number of rounds).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from airtune.federated.method import Exchange
from airtune.methods.jcpba.recorded import Measured
from airtune.tuning.pruning.slice import removed_share
from airtune.tuning.pruning.tuner import Slicer
from airtune.update.codec import TensorMap
from airtune.update.server import Update
from airtune.update.weighting import relative_shares


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


def measure_pruning(slicer: Slicer, weights: Slicer, exchange: Exchange) -> dict[str, float | None]:
    """The pruning term of the bound, as planned and as the weights removed; a record's `measured`.

    `slicer` chose the slices, `weights` scores units by the squared norms of their weights. Where
    another tuner or codec cut other slices, what was removed is not known: None.
    """
    if not exchange.updates:
        return asdict(Measured(None, None))
    rates = [exchange.plans[update.client].pruning_rate for update in exchange.updates]
    scores = weights.scores(exchange.start) if any(rates) else ()
    shares = {
        rate: removed_share(slicer.slice(exchange.start, rate), scores) if rate else 0.0
        for rate in set(rates)
    }
    counts, _ = relative_shares(exchange.updates)
    term = pruning_term(counts, rates, [shares[rate] for rate in rates])
    known = all(
        _is_slice(update, slicer, exchange.start, rate)
        for update, rate in zip(exchange.updates, rates, strict=True)
        if rate
    )
    return asdict(Measured(term.bound, term.measured if known else None))


def _is_slice(update: Update, slicer: Slicer, start: TensorMap, rate: float) -> bool:
    """Whether the client trained the coordinates that this slicer keeps."""
    if update.kept is None:
        return False
    return all(
        torch.equal(update.kept[name], mask) for name, mask in slicer.kept(start, rate).items()
    )
