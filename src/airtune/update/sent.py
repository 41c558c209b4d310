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
    else; this mean does not, and lets the few who sent a coordinate speak for all. What was sent
    is what the payload's mask says (`Codec.sent`): a change that was rounded to 0 counts. Beside
    error feedback it would count twice what was left out.
    """

    keeps_unchanged = True
    fills_unsent = True

    def aggregate(
        self, state: Mapping[str, Tensor], updates: Sequence[Update]
    ) -> dict[str, Tensor]:
        sent = [
            update if update.sent is None else replace(update, kept=update.sent)
            for update in updates
        ]
        return OverlapMean().aggregate(state, sent)
