"""What the rounds of a split model cost: two uplinks, work on both sides of the cut, messages.

Both servers are behind the cell's base station, so both uplinks have its gains, and each has the
whole band in equal subchannels, since activations and adapters are never sent at the same time. On
the downlink a client has a share of band and power for its gradients; the adapter is one multicast
over the whole band.
"""

from bisect import bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import final

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.subchannels.power import UNUSED, Owners, Uplink, measure
from airtune.cost.device import DeviceProfile, refuse_small_memory
from airtune.cost.latency import PAYLOAD_ALONE, TransferModel, compute_delay
from airtune.cost.timeline import StepDelays, Timeline, split_timeline
from airtune.errors import InputError
from airtune.federated.charging.aggregation import AggregationCosts
from airtune.federated.facts import ClientFacts
from airtune.quantities import FloatArray
from airtune.round_plan import ClientPlan, SubchannelShare
from airtune.tuning.split.model import StepBits
from airtune.update.cut import CutCodec, CutShape
from airtune.wireless.rate import Links, ShannonLinks
from airtune.workload.decisions import SplitFlops
from airtune.workload.model_work import ModelWork
from airtune.workload.step import Step

DOWNLINKS = ("planned", "equal", "free")
"""Shares of band and power for gradients, so that all end together, or `equal` ones; `free`: no
download is charged, as in the published problem."""


@final
@dataclass(frozen=True)
class LinkSettings:
    """One uplink: its subchannels, and the cap of all clients' power together (None: none)."""

    subchannels: int
    total_power_w: float | None = None

    def width_hz(self, bandwidth_hz: float) -> float:
        """Of one subchannel."""
        return bandwidth_hz / self.subchannels

    def uplink(self, links: Links, tx_power_w: FloatArray, bandwidth_hz: float) -> Uplink:
        """The link of these clients: `N0 / g = p / (carrier-to-noise-density ratio at p)`.

        Raises InputError for links whose power cannot be allotted by Shannon's formula.
        """
        if not isinstance(links, ShannonLinks):
            raise InputError(
                "cell",
                "with a table or a trace of rates",
                "one with Shannon's rates for split training",
                "set cell.rate_model=shannon and no trace: power is allotted by gains",
            )
        with np.errstate(divide="ignore"):
            noise = tx_power_w / links.effective_hz
        total = float(tx_power_w.sum()) if self.total_power_w is None else self.total_power_w
        width = np.full(self.subchannels, self.width_hz(bandwidth_hz))
        shape = (len(noise), self.subchannels)
        return Uplink(width, np.broadcast_to(noise[:, None], shape).copy(), tx_power_w, total)


@final
@dataclass(frozen=True)
class SplitSystem:
    """The servers of a split model, and what crosses the cut.

    `server_power_w` is drawn while the main server computes [W]; 0 counts none of it. Of a share
    `aggregation_ratio` of the rows gradients are aggregated over clients. Of the blocks on the
    clients a share `pruning_rate` of the units is left out.
    """

    main: LinkSettings
    federated: LinkSettings
    server_flop_rate: float
    cut: CutCodec
    labels_at: str = "server"
    downlink: str = "planned"
    server_power_w: float = 0.0
    aggregation_ratio: float = 0.0
    pruning_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.downlink not in DOWNLINKS:
            raise InputError("downlink", self.downlink, f"one of {', '.join(DOWNLINKS)}")


@dataclass(frozen=True)
class RoundRates:
    """Bit rates of a round's clients [client]: both uplinks, gradients down; the multicast's."""

    main_bps: FloatArray
    federated_bps: FloatArray
    gradient_bps: FloatArray
    broadcast_bps: float

    def select(self, clients: NDArray[np.bool_]) -> "RoundRates":
        """The rates of some clients only."""
        return RoundRates(
            self.main_bps[clients],
            self.federated_bps[clients],
            self.gradient_bps[clients],
            self.broadcast_bps,
        )


@final
@dataclass(frozen=True)
class SplitRoundCosts:
    """Work, messages, memory and stage delays of one round of a split model.

    `work` is that of the charged model, whose width and vocabulary the messages have.
    """

    system: SplitSystem
    devices: Sequence[DeviceProfile]
    work: ModelWork
    facts: ClientFacts
    round_index: int
    transfer: TransferModel = PAYLOAD_ALONE
    _shapes_of: dict[int, Sequence[CutShape]] = field(default_factory=dict, init=False, repr=False)
    _messages_of: dict[Hashable, list[StepBits]] = field(
        default_factory=dict, init=False, repr=False
    )
    _flops_of: dict[Hashable, list[SplitFlops]] = field(
        default_factory=dict, init=False, repr=False
    )

    def shapes(self, client: int) -> Sequence[CutShape]:
        """Shapes of the client's batches, one per local step."""
        if client not in self._shapes_of:
            self._shapes_of[client] = self.facts.cut_shapes(client, self.round_index)
        return self._shapes_of[client]

    @property
    def keeps_labels(self) -> bool:
        """Whether labels, and with them the LM head, stay at the clients."""
        return self.system.labels_at == "client"

    def split_points(self, client: int) -> list[int]:
        """The split points whose client half fits the client's memory, ascending.

        Raises InputError, naming the client, where not even one block fits.
        """
        points = range(1, self.work.architecture.block_count)
        if not points:
            raise InputError("model", "a single block", "a model of at least 2 blocks to split")
        device = self.devices[client]
        refuse_small_memory(f"client {client}", device, self.memory_bytes(client, points[0]))
        needed = partial(self.memory_bytes, client)
        return list(points[: bisect_right(points, device.usable_memory_bytes, key=needed)])

    def memory_bytes(self, client: int, split_point: int) -> int:
        """Peak memory of the client half, at the longest batch that the client may draw."""
        step = self.facts.longest_step(client)
        rate = self.system.pruning_rate
        return self.work.split_memory_bytes(step, split_point, self.keeps_labels, rate)

    def flops(self, client: int, split_point: int) -> list[SplitFlops]:
        """The operations of each local step."""
        key, rate = (client, split_point), self.system.pruning_rate
        if key not in self._flops_of:
            steps = [
                Step(shape.rows, shape.width, label_tokens=shape.label_tokens)
                for shape in self.shapes(client)
            ]
            self._flops_of[key] = [self.work.split_flops(step, split_point, rate) for step in steps]
        return list(self._flops_of[key])

    def messages(
        self, client: int, dropout: float = 0.0, number_format: str | None = None
    ) -> list[StepBits]:
        """Each local step's messages, predicted from real tokens and labels."""
        key = client, dropout, number_format
        if key not in self._messages_of:
            cut, hidden = self.cut.of_client(dropout, number_format), self.hidden_size
            self._messages_of[key] = [
                cut.step_bits(shape, hidden, labels=not self.keeps_labels)
                for shape in self.shapes(client)
            ]
        return list(self._messages_of[key])

    @property
    def hidden_size(self) -> int:
        """Numbers of a token that would cross the cut of the charged model."""
        return self.work.architecture.hidden_size

    @property
    def cut(self) -> CutCodec:
        """The codec at the cut, with the charged model's vocabulary."""
        return replace(self.system.cut, vocabulary=self.work.architecture.vocab_size)

    def aggregation(self, clients: Sequence[int]) -> AggregationCosts | None:
        """What aggregating the gradients of these clients costs; None where nothing is."""
        ratio = self.system.aggregation_ratio
        if ratio == 0.0 or len(clients) < 2:
            return None
        return AggregationCosts(ratio, [self.shapes(client) for client in clients])

    def flops_of(self, clients: Sequence[int], points: Sequence[int]) -> list[list[SplitFlops]]:
        """The operations of each client and local step, as these clients train together."""
        together = self.aggregation(clients)
        if together is None:
            return [self.flops(n, point) for n, point in zip(clients, points, strict=True)]
        return [together.flops(k, self.work, point) for k, point in enumerate(points)]

    def messages_of(self, plans: Sequence[ClientPlan]) -> list[list[StepBits]]:
        """Each client's messages, as these clients train together."""
        whole = [self.messages(p.client, p.cut_dropout, p.cut_format) for p in plans]
        together = self.aggregation([plan.client for plan in plans])
        return whole if together is None else together.messages(self.cut, self.hidden_size, whole)

    def mean_path_s(self, clients: Sequence[int], point: int) -> tuple[FloatArray, FloatArray]:
        """The server's seconds along the path of mean activations, forward and backward [step]."""
        together = self.aggregation(clients)
        if together is None:
            nothing = np.zeros(len(self.shapes(clients[0])))
            return nothing, nothing
        flops = together.mean_flops(self.work, point)
        ahead = np.array([step.server_forward + step.head_forward for step in flops])
        back = np.array([step.server_backward + step.head_backward for step in flops])
        return ahead / self.system.server_flop_rate, back / self.system.server_flop_rate

    def rates(
        self,
        plans: Sequence[ClientPlan],
        links: Links,
        tx_power_w: FloatArray,
        bandwidth_hz: float,
        downlink_bps: FloatArray,
    ) -> RoundRates:
        """What the planned subchannels and densities are worth on these links [client of plans]."""
        rates = {}
        for name, settings in (("main", self.system.main), ("federated", self.system.federated)):
            link = settings.uplink(links, tx_power_w, bandwidth_hz)
            shares = [getattr(plan, name) for plan in plans]
            rates[name], _ = measure(link, *shares_to_link(shares, link.subchannels))
        if self.system.downlink == "free":
            free = np.full(len(plans), np.inf)
            return RoundRates(rates["main"], rates["federated"], free, np.inf)
        reached = downlink_bps[downlink_bps > 0]
        slowest = float(reached.min()) if len(reached) else 0.0
        gradient_bps = downlink_bps * np.array([plan.downlink_share or 0.0 for plan in plans])
        return RoundRates(rates["main"], rates["federated"], gradient_bps, slowest)

    def timeline(
        self,
        plans: Sequence[ClientPlan],
        rates: RoundRates,
        messages: Sequence[Sequence[StepBits]],
        adapter_bits: Sequence[int],
        broadcast_bits: int,
    ) -> Timeline:
        """Every stage of these clients' round, `messages` [client][step]."""
        speed = np.array([self.devices[plan.client].training_flop_rate for plan in plans])
        clients = [plan.client for plan in plans]
        flops = self.flops_of(clients, [plan.split_point or 0 for plan in plans])
        mean_ahead_s, mean_back_s = self.mean_path_s(clients, plans[0].split_point or 0)
        shared = partial(self._airtime, np.full(len(plans), rates.broadcast_bps), messages)
        up = partial(self._airtime, rates.main_bps, messages)
        down = partial(self._airtime, rates.gradient_bps, messages)
        head_s = self._work(flops, "head_forward", "head_backward") / speed
        head_ahead_s, head_back_s = self._served(flops, "head_forward", "head_backward")
        ahead_s, back_s = self._served(flops, "server_forward", "server_backward")
        # The LM head runs where the labels are.
        at_client, at_server = float(self.keeps_labels), float(not self.keeps_labels)
        steps = StepDelays(
            forward_s=compute_delay(self._work(flops, "client_forward"), speed),
            activations_s=up("activations"),
            hidden_s=down("hidden"),
            head_s=head_s * at_client,
            hidden_gradient_s=up("hidden_gradient"),
            gradient_s=shared("shared") + down("gradient"),
            backward_s=compute_delay(self._work(flops, "client_backward"), speed),
            server_forward_s=ahead_s + head_ahead_s * at_server + mean_ahead_s,
            server_backward_s=back_s + head_back_s * at_server + mean_back_s,
        )
        return split_timeline(
            np.full(len(plans), self.broadcast_s(broadcast_bits, rates)),
            steps,
            self.transfer.delay_s(np.array(adapter_bits, dtype=np.float64), rates.federated_bps),
        )

    def broadcast_s(self, bits: int, rates: RoundRates) -> float:
        """The multicast of the adapter [s]."""
        return float(self.transfer.delay_s(np.array(float(bits)), np.array(rates.broadcast_bps)))

    @staticmethod
    def _work(flops: Sequence[Sequence[SplitFlops]], *names: str) -> FloatArray:
        """Operations [step, client]."""
        return np.array(
            [[sum(getattr(step, name) for name in names) for step in steps] for steps in flops]
        ).T

    def _served(self, flops: Sequence[Sequence[SplitFlops]], *names: str) -> tuple[FloatArray, ...]:
        """Seconds of the main server on all clients' batches [step], one array a name."""
        speed = self.system.server_flop_rate
        return tuple(self._work(flops, name).sum(axis=1) / speed for name in names)

    def _airtime(
        self, rate_bps: FloatArray, messages: Sequence[Sequence[StepBits]], kind: str
    ) -> FloatArray:
        """Seconds of one kind of message [step, client]."""
        bits = np.array([[float(getattr(step, kind)) for step in steps] for steps in messages]).T
        return self.transfer.delay_s(bits, rate_bps)


def shares_to_link(
    shares: Sequence[SubchannelShare | None], subchannels: int
) -> tuple[Owners, FloatArray]:
    """Owners and densities [subchannel] from each client's share, if it has one."""
    owner, psd = np.full(subchannels, UNUSED, dtype=np.intp), np.zeros(subchannels)
    for client, share in enumerate(shares):
        if share is None:
            continue
        index = list(share.subchannels)
        owner[index], psd[index] = client, share.psd_w_per_hz
    return owner, psd


def link_to_shares(owner: Owners, psd_w_per_hz: FloatArray, clients: int) -> list[SubchannelShare]:
    """The inverse of `shares_to_link`."""
    chosen = [np.flatnonzero(owner == client) for client in range(clients)]
    return [
        SubchannelShare(tuple(map(int, own)), tuple(map(float, psd_w_per_hz[own])))
        for own in chosen
    ]
