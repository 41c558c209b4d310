"""How TSFA sees the ranks of an adapter: in groups that are kept or dropped together.

The plan fixes how many ranks of each matrix travel, the client fills them with its most important
ones. So only sorted energies count: the k-th largest of a matrix represents "the k-th rank kept".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from airtune.errors import InputError
from airtune.federated.charging.costs import RoundCosts
from airtune.methods.soft_tsfa.from_cell import default_energy
from airtune.quantities import FloatArray
from airtune.round_plan import ClientPlan

SELECTIONS = ("per-layer", "global")
MOST_BENT_BITS = 800.0


@final
@dataclass(frozen=True)
class RankLayout:
    """The adapted matrices as the planner needs them.

    `per-layer`: one group for each k, the k-th rank of every matrix. `global`: one group for each
    (matrix, k), so that a matrix that matters more keeps more.

    Args:
        ranks: of each matrix, all alike [matrix].
        numbers: that travel for one rank of each matrix, in + out [matrix].
        selection: one of `SELECTIONS`.
    """

    ranks: tuple[int, ...]
    numbers: tuple[int, ...]
    selection: str = "per-layer"

    def __post_init__(self) -> None:
        if self.selection not in SELECTIONS:
            raise InputError(
                "soft_tsfa.selection", self.selection, f"one of {', '.join(SELECTIONS)}"
            )

    @property
    def rank(self) -> int:
        """The common rank."""
        return self.ranks[0]

    @property
    def groups(self) -> int:
        """How many groups the planner chooses among."""
        return self.rank if self.selection == "per-layer" else sum(self.ranks)

    def table(self, reported: Sequence[float]) -> FloatArray:
        """A client's report [matrix, rank]; InputError where a codec reports something else."""
        if len(reported) != sum(self.ranks):
            raise InputError(
                "codec",
                f"reporting {len(reported)} numbers",
                f"silent, or reporting {sum(self.ranks)}, the share of each rank of each matrix, "
                "for this planner",
            )
        return np.asarray(reported, dtype=np.float64).reshape(len(self.ranks), self.rank)

    def energies(self, reported: Sequence[float]) -> FloatArray:
        """Energy of each group [group], from shares of all ranks, matrix after matrix."""
        falling = np.sort(self.table(reported), axis=1)[:, ::-1]
        grouped: FloatArray = (
            falling.sum(axis=0) if self.selection == "per-layer" else falling.ravel()
        )
        total = grouped.sum()
        # A client without any change has nothing to drop; it keeps the least.
        return grouped / total if total > 0 else grouped

    def assumed(self) -> FloatArray:
        """Energy of each group before the first report: all matrices alike, rank k as k^-1.5."""
        return self.energies(np.tile(default_energy(self.rank), len(self.ranks)).tolist())

    def payload_bits(self, costs: RoundCosts, plan: ClientPlan) -> tuple[FloatArray, float]:
        """Bits of each group [group] and of what travels besides, from the codec's own counts.

        A straight line through the least and the whole update; frames and scales bend it by less
        than 100 bytes (`MOST_BENT_BITS`), and the bandwidths are divided again for the exact bits.
        """
        if self.rank == 1 and self.selection == "per-layer":
            return np.array([float(costs.payload_bits(plan))]), 0.0
        sizes = self._sizes()
        least = np.zeros(self.groups, dtype=bool)
        least[0] = True
        few = costs.payload_bits(self.with_kept(plan, least))
        whole = costs.payload_bits(self.with_kept(plan, np.ones(self.groups, dtype=bool)))
        each = sizes * (whole - few) / (sizes.sum() - sizes[0])
        return each, max(few - float(each[0]), 0.0)

    def most_below_line_bits(self, costs: RoundCosts, plan: ClientPlan) -> float:
        """How much shorter than the straight line of `payload_bits` an update may be."""
        if self.selection == "global":
            return MOST_BENT_BITS
        each, fixed = self.payload_bits(costs, plan)
        counts = range(1, self.groups + 1)
        exact = [
            costs.payload_bits(self.with_kept(plan, np.arange(self.groups) < k)) for k in counts
        ]
        line = [fixed + float(each[:k].sum()) for k in counts]
        return max(*(on - bits for on, bits in zip(line, exact, strict=True)), 0.0)

    def _sizes(self) -> FloatArray:
        if self.selection == "per-layer":
            return np.full(self.rank, float(sum(self.numbers)))
        return np.repeat(np.array(self.numbers, dtype=np.float64), self.rank)

    def with_kept(self, plan: ClientPlan, kept: NDArray[np.bool_]) -> ClientPlan:
        """The plan that keeps as many ranks of each matrix as there are groups kept of it."""
        if self.selection == "per-layer":
            return plan.changed(sparsity=1.0 - int(kept.sum()) / self.rank)
        counts = kept.reshape(len(self.ranks), self.rank).sum(axis=1)
        share = 1.0 - float(counts.sum()) / sum(self.ranks)
        return plan.changed(sparsity=share, kept_ranks=tuple(int(count) for count in counts))


def newest(
    energies: Mapping[str, Any], cohort: NDArray[np.int64], assumed: FloatArray
) -> FloatArray:
    """Energies [client, group] of a cohort: each client's last report.

    A client without a report gets the mean of the cohort's, or of all clients', or `assumed`.
    """
    known = [energies[str(client)] for client in cohort if str(client) in energies]
    stranger = np.mean(known or list(energies.values()) or [assumed], axis=0)
    return np.array([energies.get(str(client), stranger) for client in cohort], dtype=np.float64)
