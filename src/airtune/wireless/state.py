"""The channel of one round: what each client's link is worth."""

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from airtune.quantities import FloatArray
from airtune.wireless.budget import LinkBudget, power_links
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import FixedEfficiencyLinks, ShannonLinks

NO_CLIENTS = np.array([], dtype=np.int64)
Numbers: TypeAlias = NDArray[np.int64] | None
"""Of clients; None: all of them."""
_BY_CLIENT = (
    "position_m",
    "speed_m_s",
    "line_of_sight",
    "path_loss_db",
    "shadowing_db",
    "fading_gain",
    "gain",
    "spectral_efficiency",
    "downlink_efficiency",
)
"""Fields of a `ChannelState` with the axis [client]."""


@dataclass(frozen=True)
class ChannelState:
    """Every client's link in one round; all arrays have the axis [client].

    A drawn channel has a gain, and its links follow from the link budget. A measured trace has a
    spectral efficiency instead: then position, path loss and gain are unknown (NaN).
    Gains are reciprocal: uplink and downlink see the same one.

    Attributes:
        round_index: the round in which this channel held; a stale estimate names an earlier one.
        position_m: place of each client, [client, 2] m, the base station at the origin.
        speed_m_s: speed of each client, m/s.
        line_of_sight: True where TR 38.901 has line of sight; None for a model without that state.
        path_loss_db: mean attenuation, dB.
        shadowing_db: log-normal deviation, dB; positive attenuates more.
        fading_gain: power gain of small-scale fading, mean about 1; NaN, as the gain then is, where
            a client's fading was not drawn.
        gain: power gain of the whole link, antennas included.
        spectral_efficiency: measured efficiency, bit/s/Hz; NaN where the gain decides.
        budget: powers, noise, margin and rate model.
        downlink_efficiency: as `spectral_efficiency`, where the directions were measured apart.
    """

    round_index: int
    position_m: FloatArray
    speed_m_s: FloatArray
    line_of_sight: NDArray[np.bool_] | None
    path_loss_db: FloatArray
    shadowing_db: FloatArray
    fading_gain: FloatArray
    gain: FloatArray
    spectral_efficiency: FloatArray
    budget: LinkBudget
    downlink_efficiency: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.gain)

    @property
    def is_measured(self) -> bool:
        """Whether a trace gave the spectral efficiency."""
        return not bool(np.isnan(self.spectral_efficiency).any())

    def uplink_cn0_hz(self, tx_power_w: FloatArray | None = None) -> FloatArray:
        """Carrier-to-noise-density ratio p g / N0 [client] at the base station, Hz."""
        power = self.budget.tx_power_w if tx_power_w is None else tx_power_w
        return power * self.gain / self.budget.uplink_noise_psd

    def downlink_cn0_hz(self) -> FloatArray:
        """Carrier-to-noise-density ratio [client] at the clients, Hz."""
        return self.budget.bs_tx_power_w * self.gain / self.budget.downlink_noise_psd

    def uplink(
        self, tx_power_w: FloatArray | None = None, clients: Numbers = None
    ) -> ShannonLinks | CqiLinks | FixedEfficiencyLinks:
        """FDMA links to the base station; `tx_power_w` [client] replaces the cell's power.

        A measured efficiency already contains the power that it was measured with, so it does not
        change with `tx_power_w`.
        """
        return self._links(self.uplink_cn0_hz(tx_power_w), self.spectral_efficiency, clients)

    def downlink(self, clients: Numbers = None) -> ShannonLinks | CqiLinks | FixedEfficiencyLinks:
        """Links from the base station with its power over the band.

        A multicast to some clients runs at `downlink(them).rate(bandwidth).min()`.
        """
        efficiency = self.downlink_efficiency
        efficiency = self.spectral_efficiency if efficiency is None else efficiency
        return self._links(self.downlink_cn0_hz(), efficiency, clients)

    def out_of_reach(self) -> dict[int, str]:
        """Clients whose link carries nothing this round at any bandwidth, each with a sentence."""
        value = self.spectral_efficiency if self.is_measured else self.gain
        if self.downlink_efficiency is not None:
            value = np.minimum(value, self.downlink_efficiency)
        what = "trace shows no throughput" if self.is_measured else "channel gain is zero"
        return {
            int(client): f"client {client} is out of reach: its {what} in this round"
            for client in np.flatnonzero(value == 0)
        }

    def without_fading(self) -> "ChannelState":
        """The same state with small-scale fading at its mean; a measured state is unchanged."""
        if self.is_measured:
            return self
        gain = np.where(self.fading_gain > 0, self.gain / self.fading_gain, self.gain)
        return replace(self, gain=gain, fading_gain=np.ones_like(self.fading_gain))

    def scaled(self, factor: FloatArray) -> "ChannelState":
        """The same state with every link's gain, or efficiencies, times a factor [client]."""
        down = self.downlink_efficiency
        return replace(
            self,
            fading_gain=self.fading_gain * factor,
            gain=self.gain * factor,
            spectral_efficiency=self.spectral_efficiency * factor,
            downlink_efficiency=None if down is None else down * factor,
        )

    def with_links_of(self, other: "ChannelState", clients: NDArray[np.int64]) -> "ChannelState":
        """The same state, with these clients' links as they are in another round of the cell."""
        mixed: dict[str, Any] = {}
        for name in _BY_CLIENT:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None and theirs is not None:
                mixed[name] = mine.copy()
                mixed[name][clients] = theirs[clients]
        return replace(self, **mixed)

    def _links(
        self, cn0_hz: FloatArray, efficiency: FloatArray, clients: Numbers
    ) -> ShannonLinks | CqiLinks | FixedEfficiencyLinks:
        chosen = slice(None) if clients is None else clients
        if self.is_measured:
            return FixedEfficiencyLinks(efficiency[chosen])
        return power_links(self.budget.rate_model, cn0_hz[chosen], self.budget.margin)


@dataclass(frozen=True)
class Observation:
    """One round's true channel, which the clock is charged with, and the planner's estimate."""

    truth: ChannelState
    estimate: ChannelState
