"""Split federated fine-tuning as numbers: demands, stage delays, the total, and its check.

SflLLM (Zhao et al., arXiv 2504.14667, the total training delay): the model is cut after a block;
clients run the first half, a main server the rest, and a federated server averages the adapters of
the client halves. For one candidate (split point and rank)

    T = rounds * ( local_steps * ( max_k (forward_k + activations up_k) + server
                                   + max_k (gradients down_k + backward_k) )
                   + max_k adapter up_k + max_k adapter down_k )

where every transfer may begin with a fixed round trip, and the uplink rates are
`R_k = sum over its subchannels of b_i log2(1 + p_i g_ki / N0)`. Left out: the servers' own links to
each other, and the averaging itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from airtune.allocation.bandwidth import airtime_s, client_name
from airtune.allocation.solve import Check
from airtune.allocation.subchannels.power import UNUSED, Demand, Owners, Uplink, measure
from airtune.quantities import FloatArray

PerClient: TypeAlias = float | FloatArray
"""The same for every client, or [client]."""


@dataclass(frozen=True)
class SplitCandidate:
    """A split point and a rank, and what they cost: seconds and bits of one local step.

    Those of the clients' side may differ between clients, as devices and mean batches do.

    Attributes:
        split_point: transformer blocks on the client.
        rounds: global rounds until the target loss at this rank.
        client_forward_s, client_backward_s: of a client's half on its batch.
        server_s: forward and backward of the main server on the batches of all clients.
        activation_bits, gradient_bits: up and down at the cut, of a batch.
        adapter_bits: the client half's adapter, once per round.
        broadcast_bits: the averaged adapter on its way down; as long as the upload by default.
    """

    split_point: int
    rank: int
    rounds: float
    client_forward_s: PerClient
    client_backward_s: PerClient
    server_s: float
    activation_bits: PerClient
    gradient_bits: PerClient
    adapter_bits: float
    broadcast_bits: float | None = None

    @property
    def down_bits(self) -> float:
        """What comes down once per round."""
        return self.adapter_bits if self.broadcast_bits is None else self.broadcast_bits


@dataclass(frozen=True)
class SplitDelays:
    """Seconds; arrays have the axis [client]. All but the adapter's are those of one local step."""

    client_forward_s: FloatArray
    activation_upload_s: FloatArray
    server_s: float
    gradient_download_s: FloatArray
    client_backward_s: FloatArray
    adapter_upload_s: FloatArray
    adapter_download_s: FloatArray


@dataclass(frozen=True)
class LinkPlan:
    """Owner and power spectral density of each subchannel of one link [subchannel]."""

    owner: Owners
    psd_w_per_hz: FloatArray


@dataclass(frozen=True)
class SplitPlan:
    """The decisions: an index into the candidates, and both links."""

    candidate: int
    main: LinkPlan
    federated: LinkPlan


@dataclass(frozen=True)
class SplitTraining:
    """A planning problem of SflLLM.

    `downlink_rate_bps` [client] is None where the download is not charged; a candidate with
    gradients to send down needs it. At `multicast_bps` the averaged adapter goes to all clients at
    once (None: to each at its own downlink rate). `round_trip_s` is added to every transfer of
    some bits that is charged [s].
    """

    local_steps: int
    main: Uplink
    federated: Uplink
    candidates: tuple[SplitCandidate, ...]
    downlink_rate_bps: FloatArray | None = None
    names: Sequence[str] = ()
    multicast_bps: float | None = None
    round_trip_s: float = 0.0

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return self.main.clients

    def name(self, client: int) -> str:
        """What messages call a client."""
        return client_name(self.names, client)

    def main_demand(self, candidate: SplitCandidate) -> Demand:
        """The demand of one local step on the main server's link."""
        bits = self._each(candidate.activation_bits)
        return Demand(bits, self._each(candidate.client_forward_s) + self.trip_s(bits))

    def federated_demand(self, candidate: SplitCandidate) -> Demand:
        """The demand of one round on the federated server's link."""
        bits = self._each(candidate.adapter_bits)
        return Demand(bits, self.trip_s(bits))

    def trip_s(self, bits: PerClient) -> FloatArray:
        """The round trip before a transfer, elementwise: 0 where there are no bits [s]."""
        return np.where(np.asarray(bits) > 0, self.round_trip_s, 0.0)

    def delays(
        self, candidate: SplitCandidate, main_bps: FloatArray, federated_bps: FloatArray
    ) -> SplitDelays:
        """Every stage at these uplink rates [client]."""
        return SplitDelays(
            client_forward_s=self._each(candidate.client_forward_s),
            activation_upload_s=self._transfer_s(candidate.activation_bits, main_bps),
            server_s=candidate.server_s,
            gradient_download_s=self._download_s(self._each(candidate.gradient_bits)),
            client_backward_s=self._each(candidate.client_backward_s),
            adapter_upload_s=self._transfer_s(candidate.adapter_bits, federated_bps),
            adapter_download_s=self._adapter_down_s(candidate),
        )

    def total_s(
        self, candidate: SplitCandidate, main_deadline_s: float, adapter_upload_s: float
    ) -> float:
        """The total from the two deadlines that the uplinks decide."""
        step = main_deadline_s + self.after_upload_s(candidate)
        once = adapter_upload_s + self.adapter_download_s(candidate)
        return candidate.rounds * (self.local_steps * step + once)

    def main_deadline_for(
        self, candidate: SplitCandidate, total_s: float, adapter_upload_s: float
    ) -> float:
        """The main link's deadline that makes the total this long; the inverse of `total_s`."""
        once = adapter_upload_s + self.adapter_download_s(candidate)
        step = (total_s / candidate.rounds - once) / self.local_steps
        return step - self.after_upload_s(candidate)

    def after_upload_s(self, candidate: SplitCandidate) -> float:
        """Of one local step, what follows the upload: the server, gradients down, backward."""
        nothing = np.full(self.clients, np.inf)
        stages = self.delays(candidate, nothing, nothing)
        return stages.server_s + float(
            np.max(stages.gradient_download_s + stages.client_backward_s)
        )

    def adapter_download_s(self, candidate: SplitCandidate) -> float:
        """The slowest download of the averaged adapter; 0 where the download is not charged."""
        return float(np.max(self._adapter_down_s(candidate)))

    def _adapter_down_s(self, candidate: SplitCandidate) -> FloatArray:
        bits = np.full(self.clients, candidate.down_bits)
        if self.multicast_bps is None:
            return self._download_s(bits)
        return self._transfer_s(bits, np.full(self.clients, self.multicast_bps))

    def _each(self, values: PerClient) -> FloatArray:
        return np.full(self.clients, values, dtype=np.float64)

    def _download_s(self, bits: FloatArray) -> FloatArray:
        if self.downlink_rate_bps is None:
            return np.zeros(self.clients)
        return self._transfer_s(bits, self.downlink_rate_bps)

    def _transfer_s(self, bits: PerClient, rate_bps: FloatArray) -> FloatArray:
        """Round trip and airtime [client]; nothing at an infinite rate, a link not charged."""
        each = self._each(bits)
        return np.where(np.isinf(rate_bps), 0.0, self.trip_s(each)) + airtime_s(each, rate_bps)


def plan_delay_s(training: SplitTraining, plan: SplitPlan) -> float:
    """The total delay of a plan, straight from its densities."""
    candidate = training.candidates[plan.candidate]
    main, _ = measure(training.main, plan.main.owner, plan.main.psd_w_per_hz)
    federated, _ = measure(training.federated, plan.federated.owner, plan.federated.psd_w_per_hz)
    stages = training.delays(candidate, main, federated)
    step = float(np.max(stages.client_forward_s + stages.activation_upload_s))
    return training.total_s(candidate, step, float(np.max(stages.adapter_upload_s)))


def check_split_plan(training: SplitTraining, plan: SplitPlan, total_s: float) -> Check:
    """Recompute by plain loops that a plan keeps every constraint and its total delay."""
    candidate = training.candidates[plan.candidate]
    excess: dict[str, float] = {}
    rates: dict[str, list[float]] = {}
    for name, link in (("main", training.main), ("federated", training.federated)):
        chosen: LinkPlan = getattr(plan, name)
        rates[name], power, misplaced = _plain_link(link, chosen)
        excess[f"{name} densities"] = float("inf") if misplaced else 0.0
        excess[f"{name} power of a client"] = max(map(_above, power, link.power_max_w))
        excess[f"{name} total power"] = _above(sum(power), link.power_total_w)
    excess["total delay"] = _above(_plain_total_s(training, candidate, rates), total_s)
    return Check(excess)


def _above(value: float, limit: float) -> float:
    """By how much a value exceeds its limit, relative to it."""
    if limit > 0:
        return float(value / limit - 1)
    return float("inf") if value > limit else 0.0


def _plain_link(link: Uplink, chosen: LinkPlan) -> tuple[list[float], list[float], bool]:
    """Rates, powers, and whether a density is negative, not finite or on an unused subchannel."""
    rate, power = [0.0] * link.clients, [0.0] * link.clients
    misplaced = False
    for i, (owner, psd) in enumerate(zip(chosen.owner, chosen.psd_w_per_hz, strict=True)):
        if not 0 <= psd < float("inf") or (owner == UNUSED and psd > 0):
            misplaced = True
        elif owner != UNUSED:
            width = float(link.bandwidth_hz[i])
            rate[owner] += width * math.log1p(psd / link.noise_to_gain[owner, i]) / math.log(2)
            power[owner] += width * float(psd)
    return rate, power, misplaced


def _plain_total_s(
    training: SplitTraining, candidate: SplitCandidate, rates: dict[str, list[float]]
) -> float:
    """The formula of the module's docstring, client by client."""
    first = last = up = down = 0.0
    for k in range(training.clients):
        sending_s = _plain_s(training, _of(candidate.activation_bits, k), rates["main"][k])
        first = max(first, _of(candidate.client_forward_s, k) + sending_s)
        up = max(up, _plain_s(training, candidate.adapter_bits, rates["federated"][k]))
        fetch = 0.0
        if training.downlink_rate_bps is not None:
            own_bps = float(training.downlink_rate_bps[k])
            fetch = _plain_s(training, _of(candidate.gradient_bits, k), own_bps)
            if training.multicast_bps is None:
                down = max(down, _plain_s(training, candidate.down_bits, own_bps))
        last = max(last, fetch + _of(candidate.client_backward_s, k))
    if training.multicast_bps is not None:
        down = _plain_s(training, candidate.down_bits, training.multicast_bps)
    step = first + candidate.server_s + last
    return candidate.rounds * (training.local_steps * step + up + down)


def _of(values: PerClient, client: int) -> float:
    return float(values if isinstance(values, int | float) else values[client])


def _plain_s(training: SplitTraining, bits: float, rate_bps: float) -> float:
    if bits == 0 or rate_bps == math.inf:
        return 0.0
    return training.round_trip_s + bits / rate_bps if rate_bps > 0 else math.inf
