"""A LoRA rank per client, by what its device can do."""

import math
from collections.abc import Sequence

from airtune.errors import InputError


def ranks_by_speed(
    speeds: Sequence[float], rank_min: int, rank_max: int, field: str = "rank_min"
) -> tuple[int, ...]:
    """`r_n = rank_min (rank_max / rank_min)^x_n`, rounded; x_n in [0, 1] is the log of the speed.

    Devices that are all alike get the largest rank.

    Args:
        speeds: sustained training rate of each client [FLOP/s].
        rank_min: rank of the slowest device; `field` is its key.
        rank_max: rank of the fastest one.
    """
    if not 1 <= rank_min <= rank_max:
        raise InputError(field, rank_min, f"from 1 to adapter.rank, {rank_max}")
    low, high = math.log(min(speeds)), math.log(max(speeds))
    places = [(math.log(speed) - low) / (high - low) if high > low else 1.0 for speed in speeds]
    return tuple(round(rank_min * (rank_max / rank_min) ** place) for place in places)
