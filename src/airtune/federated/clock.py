"""The virtual clock: what simulated time and energy have been spent so far."""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Clock:
    """Seconds of simulated time and joules of the clients' energy since round 0."""

    time_s: float = 0.0
    energy_j: float = 0.0

    def charge(self, latency_s: float, energy_j: float) -> "Clock":
        """The clock after a round. Infinity or NaN would hide a mistake, so neither is taken."""
        if not (0.0 <= latency_s < float("inf") and 0.0 <= energy_j < float("inf")):
            raise ValueError(f"a round cannot last {latency_s} s and use {energy_j} J")
        return Clock(self.time_s + latency_s, self.energy_j + energy_j)
