"""A quick cell for tests, and equality of channel states to the bit."""

from dataclasses import fields
from typing import Any

import numpy as np

from airtune.wireless.state import ChannelState, Observation

MACRO: dict[str, Any] = {"path_loss": "log_distance", "carrier_hz": 2e9, "radius_m": 500.0}


def same(one: ChannelState, other: ChannelState, clients: int | None = None) -> bool:
    """Equality to the bit, of the first clients."""
    for entry in fields(ChannelState):
        first, second = getattr(one, entry.name), getattr(other, entry.name)
        if isinstance(first, np.ndarray):
            first, second = first[:clients], second[:clients]
            if not np.array_equal(first, second, equal_nan=first.dtype.kind == "f"):
                return False
        elif first != second:
            return False
    return True


def equal(one: Observation, other: Observation, clients: int | None = None) -> bool:
    return same(one.truth, other.truth, clients) and same(one.estimate, other.estimate, clients)
