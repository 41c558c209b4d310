"""With which share an update counts: decided beside the aggregator, which only merges.

Without a weighting of its own a method weighs by examples among those present, `w_n / sum w`. A
`Weighting` sets `Update.share` instead: unbiased under unequal sampling, by staleness, by loss.
Shares need not sum to 1. Their sum is the step that the server takes: 1 replaces the adapter by
the mean of what clients trained, 1/2 moves it half of the way.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from airtune.errors import InputError
from airtune.quantities import FloatArray
from airtune.round_plan import MAIN_SERVER
from airtune.update.server import Update


@dataclass(frozen=True)
class Occasion:
    """What is known of a server step beside its updates.

    Attributes:
        step_index: the round, from 0.
        weights: number of examples [client], of all registered clients.
        losses: client -> mean training loss, of those whose updates are merged.
        inclusion: client -> probability with which it was drawn; empty where all are alike.
        staleness: client -> server steps since the broadcast that it trained from; empty where
            all trained from the last one.
    """

    step_index: int
    weights: FloatArray
    losses: Mapping[int, float] = field(default_factory=dict)
    inclusion: Mapping[int, float] = field(default_factory=dict)
    staleness: Mapping[int, int] = field(default_factory=dict)


class Weighting(ABC):
    """Decides the shares of a step's updates. Only beside an aggregator that `uses_shares`."""

    @abstractmethod
    def shares(self, updates: Sequence[Update], occasion: Occasion) -> Sequence[float] | None:
        """A share of at least 0 for each update; the clients' updates only, one or more.

        None: the shares are those without a weighting.
        """


@final
class Unbiased(Weighting):
    """`a_n / q_n`: a_n the client's examples over those of all clients, q_n its probability.

    The mean over draws of the sum of such changes is the sum with a_n over all clients, whatever
    the probabilities (Horvitz and Thompson, J. Am. Stat. Assoc. 47, 1952); its variance is
    `sum_n a_n^2 (1 / q_n - 1) |change_n|^2` for independent draws. Dividing by the sum of the
    shares that are present would be biased.
    """

    def shares(self, updates: Sequence[Update], occasion: Occasion) -> Sequence[float]:
        total = float(occasion.weights.sum())
        return [
            float(occasion.weights[update.client])
            / total
            / occasion.inclusion.get(update.client, 1.0)
            for update in updates
        ]


def weighed(
    weighting: Weighting | None, updates: Sequence[Update], occasion: Occasion
) -> list[Update]:
    """The updates with their shares; as they are without a weighting.

    What a main server trained is no client's change and has no share. Raises InputError for shares
    that are no numbers of at least 0.
    """
    clients = [update for update in updates if update.client != MAIN_SERVER]
    if weighting is None or not clients:
        return list(updates)
    given = weighting.shares(clients, occasion)
    if given is None:
        return list(updates)
    shares = [float(share) for share in given]
    if len(shares) != len(clients) or not all(0.0 <= share < math.inf for share in shares):
        raise InputError("shares of updates", str(shares)[:80], f"{len(clients)} numbers >= 0")
    by_client = {update.client: share for update, share in zip(clients, shares, strict=True)}
    return [replace(update, share=by_client.get(update.client)) for update in updates]


def shares_of(updates: Sequence[Update]) -> list[float]:
    """The coefficient of each change: its share, or its weight over the sum of those present."""
    relative, _ = relative_shares(updates)
    return normalised(relative) if _by_weight(updates) else relative


def relative_shares(updates: Sequence[Update]) -> tuple[list[float], float]:
    """Numbers in the ratio of the shares, and the sum of the shares.

    Without a weighting these are the weights themselves and exactly 1, so that the mean over some
    of the clients is a division of weights.
    """
    if _by_weight(updates):
        return [update.weight for update in updates], 1.0
    shares = [update.share or 0.0 for update in updates]
    return shares, sum(shares)


def full_step(updates: Sequence[Update]) -> tuple[list[Update], float]:
    """The updates with shares that sum to 1, and what their shares summed to."""
    if _by_weight(updates):
        return list(updates), 1.0
    shares, whole = relative_shares(updates)
    pairs = zip(updates, normalised(shares), strict=True)
    return [replace(update, share=share) for update, share in pairs], whole


def normalised(shares: Sequence[float]) -> list[float]:
    """In the same ratio, with the sum 1; all alike where all are 0."""
    total = sum(shares)
    return [share / total if total > 0 else 1.0 / len(shares) for share in shares]


def _by_weight(updates: Sequence[Update]) -> bool:
    return all(update.share is None for update in updates)
