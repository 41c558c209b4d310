"""What a planner sees of a round: the channel as estimated, and what each decision would cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airtune.cost.device import client_energy
from airtune.federated.charging.costs import RoundCosts
from airtune.federated.draw import Draw
from airtune.quantities import FloatArray
from airtune.round_plan import ClientPlan
from airtune.wireless.budget import at_power
from airtune.wireless.rate import Links


@dataclass(frozen=True)
class PlanningView:
    """All that a planner sees: the estimated channel and the costs, nothing of this training.

    Arrays have one entry per client of the cohort, in the cohort's (ascending) order. `broadcast_s`
    is the estimated delay of the downlink, which all clients wait for; `downlink_bps` [client] is
    what each could receive over the whole band. `names` serve messages. `draw` is the
    planner's own draw of the cohort, where it makes one.
    """

    round_index: int
    cohort: NDArray[np.int64]
    names: tuple[str, ...]
    uplink: Links
    bandwidth_hz: float
    tx_power_w: FloatArray
    weights: FloatArray
    rank: int
    broadcast_s: float
    deadline_s: float | None
    costs: RoundCosts
    downlink_bps: FloatArray
    draw: Draw | None = None

    def broadcast_to(self, positions: Sequence[int]) -> float:
        """Delay of the broadcast to these positions of the cohort alone, at their worst rate [s].

        A client that is left out of the round does not slow it down; to no client it takes as long
        as to the whole cohort.
        """
        if not len(positions):
            return self.broadcast_s
        rates = self.downlink_bps[np.asarray(positions, dtype=np.intp)]
        bits = float(self.costs.downlink_bits(self.full_plan(int(positions[0]))))
        slowest = rates[rates > 0].min() if (rates > 0).any() else 0.0
        return float(self.costs.transfer.delay_s(np.array(bits), np.array(slowest)))

    def latency_s(self, clients: Sequence[ClientPlan]) -> float:
        """The round's latency with these plans, on the channel as estimated [s].

        What a plan has to predict; with a perfect estimate it is what the clock is charged.
        """
        places = np.searchsorted(self.cohort, [entry.client for entry in clients])
        if self.costs.split is not None:
            return self._split_latency_s(clients, places)
        bands = np.array([entry.bandwidth_hz for entry in clients])
        bits = np.array([float(self.costs.payload_bits(entry)) for entry in clients])
        compute_s = np.array([self.costs.compute_s(entry) for entry in clients])
        rate_bps = self._links(clients, places).rate(bands)
        upload_s = self.costs.transfer.delay_s(bits, rate_bps)
        return float((self.broadcast_to(places.tolist()) + compute_s + upload_s).max())

    def energy_j(self, clients: Sequence[ClientPlan]) -> FloatArray:
        """Energy of these plans' clients, on the channel as estimated [client].

        For clients with a share of one band each. Raises InputError for a device whose power is not
        known.
        """
        places = np.searchsorted(self.cohort, [entry.client for entry in clients])
        bands = np.array([entry.bandwidth_hz for entry in clients])
        bits = np.array([float(self.costs.payload_bits(entry)) for entry in clients])
        upload_s = self.costs.transfer.delay_s(bits, self._links(clients, places).rate(bands))
        sending_s = self.costs.transfer.sending_s(upload_s)
        return np.array(
            [
                client_energy(
                    self.costs.model.devices[entry.client],
                    self.costs.compute_s(entry),
                    float(seconds),
                    entry.tx_power_w,
                    entry.speed,
                )
                for entry, seconds in zip(clients, sending_s, strict=True)
            ]
        )

    def _links(self, clients: Sequence[ClientPlan], places: NDArray[np.intp]) -> Links:
        """Their uplinks at the powers of the plans."""
        links, powers = self.uplink.select(places), np.array([e.tx_power_w for e in clients])
        full = self.tx_power_w[places]
        if np.array_equal(powers, full):
            return links
        return at_power(links, powers / full)

    def _split_latency_s(self, clients: Sequence[ClientPlan], places: NDArray[np.intp]) -> float:
        split = self.costs.split
        assert split is not None
        rates = split.rates(
            clients,
            self.uplink.select(places),
            self.tx_power_w[places],
            self.bandwidth_hz,
            self.downlink_bps[places],
        )
        timeline = split.timeline(
            clients,
            rates,
            split.messages_of(clients),
            [self.costs.payload_bits(entry) for entry in clients],
            self.costs.downlink_bits(max(clients, key=lambda entry: entry.split_point or 0)),
        )
        return float(timeline.finish_s.max())

    def full_plan(self, position: int, bandwidth_hz: float = 0.0) -> ClientPlan:
        """The plan of the client at this position of the cohort, with nothing removed."""
        return ClientPlan(
            client=int(self.cohort[position]),
            bandwidth_hz=bandwidth_hz,
            tx_power_w=float(self.tx_power_w[position]),
            rank=self.rank,
        )
