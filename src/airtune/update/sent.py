"""Merging sparse updates over those who sent something."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

from torch import Tensor

from airtune.update.aggregate import Aggregator, Update
from airtune.update.overlap import OverlapMean


@final
class SentMean(Aggregator):
    """Each coordinate's weighted mean over the clients that sent it; sent by nobody, it stays.

    `x_i += sum_{n sent i} w_n dx_{n,i} / sum_{n sent i} w_n`. The plain mean counts what was not
    sent as "no change", which shortens every step by the share of clients that kept something
    else; this mean does not, and lets the few who sent a coordinate speak for all. A coordinate
    counts as sent where its change is not exactly zero. Beside error feedback it would count twice
    what was left out.
    """

    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        sent = [
            replace(update, kept={name: x != 0 for name, x in update.change.items()})
            for update in updates
        ]
        return OverlapMean().aggregate(state, sent)
