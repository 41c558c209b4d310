"""What a round costs: computing delays, bits on the air, and what each client is charged.

Everything that can be known before training is known here: the batches of a round are drawn from
(seed, round, client), so their shapes, FLOPs and payloads are exact before the first step.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, final

from airtune.cost.device import DeviceProfile
from airtune.cost.latency import PAYLOAD_ALONE, RoundLatency, TransferModel
from airtune.errors import InputError
from airtune.federated.charging.split_costs import SplitRoundCosts, SplitSystem
from airtune.federated.checks.guard import asked
from airtune.federated.facts import ClientFacts
from airtune.federated.records.record import IN_TIME, ClientRecord
from airtune.round_plan import MAIN_SERVER, ClientPlan
from airtune.tuning.tuner import CohortTuner, Tuner
from airtune.update.codec import Codec, Shapes
from airtune.update.server import Memory
from airtune.workload.model_work import ModelWork
from airtune.workload.step import Step


@final
@dataclass(frozen=True)
class CostModel:
    """What the costs of an experiment's rounds follow from.

    FLOPs and memory are the tuner's answer for a plan, from the `work` of the charged model and the
    batch shapes in `facts`; bits are the codec's answer, from the `shapes` of the charged model's
    adapter. What `charge_as` changes, it changes here: with `as_other_model` payloads are charged
    as predicted for that model, not as encoded. `devices` has one entry per registered client;
    `split` describes the servers of a split model, `transfer` what travels besides payloads.
    """

    devices: Sequence[DeviceProfile]
    facts: ClientFacts
    work: ModelWork
    tuner: Tuner | CohortTuner
    codec: Codec
    downlink: Codec
    shapes: Shapes
    as_other_model: bool = False
    split: SplitSystem | None = None
    transfer: TransferModel = PAYLOAD_ALONE
    payloads: "Payloads" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "payloads", Payloads(self.codec, self.shapes))

    def with_downlink(self, downlink: Codec) -> "CostModel":
        """These costs with another broadcast; what is known of updates stays known."""
        made = replace(self, downlink=downlink)
        object.__setattr__(made, "payloads", self.payloads)
        return made

    def in_round(self, round_index: int) -> "RoundCosts":
        """The costs of one round's decisions."""
        return RoundCosts(self, round_index)


class Payloads:
    """What a codec predicts of updates: their bits, their line over the pruning rate [bit], and
    the work of encoding them [FLOP], each computed once.

    All three follow from the shapes and the plan alone, so they are the same in every round.
    """

    MOST = 16_384
    """Numbers that are kept; where plans differ in every round, all are forgotten then."""

    def __init__(self, codec: Codec, shapes: Shapes) -> None:
        self._codec, self._shapes = codec, shapes
        self._known: dict[Hashable, Any] = {}

    def bits(self, plan: ClientPlan) -> int:
        """`Codec.payload_bits`."""
        bits: int = self._once("bits", self._codec.payload_bits, plan)
        return bits

    def line(self, plan: ClientPlan) -> tuple[float, float]:
        """`Codec.affine_bits`."""
        line: tuple[float, float] = self._once("line", self._codec.affine_bits, plan)
        return line

    def encoding_flops(self, plan: ClientPlan) -> float:
        """`Codec.encoding_flops`."""
        flops: float = self._once("flops", self._codec.encoding_flops, plan)
        return flops

    def _once(
        self, name: str, answer: Callable[[Shapes, ClientPlan], Any], plan: ClientPlan
    ) -> Any:
        key = name, plan.work_key
        if key not in self._known:
            if len(self._known) >= self.MOST:
                self._known.clear()
            self._known[key] = answer(self._shapes, plan)
        return self._known[key]


@final
@dataclass(frozen=True)
class RoundCosts:
    """Costs of one round: what each decision of a plan takes in time, bits and memory.

    Planning, checking and charging need the same work and payloads; they are counted once.
    """

    model: CostModel
    round_index: int
    _steps_of: dict[int, Sequence[Step]] = field(default_factory=dict, init=False, repr=False)
    _flops_of: dict[Hashable, float] = field(default_factory=dict, init=False, repr=False)
    _bits_of: dict[Hashable, int] = field(default_factory=dict, init=False, repr=False)

    def compute_flops(self, plan: ClientPlan) -> float:
        """All that the client computes in the round [FLOP]."""
        key = plan.work_key
        if key not in self._flops_of:
            trained = self._tuner.flops(plan, self._steps(plan), self.model.work)
            self._flops_of[key] = trained + self._coding_flops(plan)
        return self._flops_of[key]

    def compute_s(self, plan: ClientPlan) -> float:
        """Computing delay of the whole round: FLOPs / the device's sustained training rate [s].

        The rate is that at the plan's share of full speed.
        """
        rate = self.model.devices[plan.client].training_flop_rate * plan.speed
        return self.compute_flops(plan) / rate

    def affine_compute_s(self, plan: ClientPlan) -> tuple[float, float]:
        """`fixed` and `prunable` of the computing delay: fixed + (1 - rate) prunable [s]."""
        speed = self.model.devices[plan.client].training_flop_rate
        fixed, prunable = self._tuner.affine_flops(plan, self._steps(plan), self.model.work)
        return (fixed + self._coding_flops(plan)) / speed, prunable / speed

    def payload_bits(self, plan: ClientPlan) -> int:
        """Predicted length of the update [bit]."""
        key = plan.work_key
        if key not in self._bits_of:
            with asked("codec", self.model.codec, self.round_index, plan.client):
                self._bits_of[key] = self.model.payloads.bits(plan)
        return self._bits_of[key]

    def affine_payload_bits(self, plan: ClientPlan) -> tuple[float, float]:
        """`fixed` and `prunable` of the update: fixed + (1 - rate) prunable [bit]."""
        return self.model.payloads.line(plan)

    def to_cohort(self, memory: Memory, cohort: Sequence[int]) -> "RoundCosts":
        """These costs with the broadcast that this cohort needs, from the server's memory."""
        downlink = self.model.downlink.to_cohort(memory, cohort, self.round_index)
        if downlink is self.model.downlink:
            return self
        return RoundCosts(self.model.with_downlink(downlink), self.round_index)

    @property
    def transfer(self) -> TransferModel:
        """Protocol heads and round trip of every transfer."""
        return self.model.transfer

    def air_bits(self, plan: ClientPlan) -> float:
        """The update on the air, protocol heads included [bit]; what a solver divides the band for.

        `payload_bits` are those that a record states.
        """
        return self.transfer.air_bits_of(self.payload_bits(plan))

    def affine_air_bits(self, plan: ClientPlan) -> tuple[float, float]:
        """`affine_payload_bits` on the air: fixed + (1 - rate) prunable [bit]."""
        fixed, prunable = self.affine_payload_bits(plan)
        return self.transfer.air_bits_of(fixed), self.transfer.air_bits_of(prunable)

    def before_upload_s(self, plan: ClientPlan) -> float:
        """From the end of the broadcast to the first bit up: computing, then the round trip [s]."""
        trip_s = self.transfer.round_trip_s if self.payload_bits(plan) > 0 else 0.0
        return self.compute_s(plan) + trip_s

    def charged_bits(self, plan: ClientPlan, payload: bytes) -> int:
        """Uplink bits to charge: those really encoded, unless another model is charged."""
        return self.payload_bits(plan) if self.model.as_other_model else 8 * len(payload)

    def downlink_bits(self, plan: ClientPlan) -> int:
        """Predicted length of the broadcast [bit]."""
        with asked("downlink codec", self.model.downlink, self.round_index):
            return self.model.downlink.payload_bits(self.model.shapes, plan)

    def memory_bytes(self, plan: ClientPlan) -> int:
        """Peak memory of the client's training, at the longest batch that it may draw."""
        if self.split is not None and plan.split_point is not None:
            return self.split.memory_bytes(plan.client, plan.split_point)
        step = self.model.facts.longest_step(plan.client)
        return self._tuner.memory_bytes(plan, step, self.model.work)

    def usable_memory_bytes(self, client: int) -> float:
        """What the client's device has for training."""
        return self.model.devices[client].usable_memory_bytes

    def realisable_rates(self) -> list[float]:
        """Pruning rates at which one more unit goes, ascending from 0."""
        return self.model.work.realisable_rates()

    def least_rate(self, plan: ClientPlan) -> float:
        """The pruning rate that the client needs to fit its memory.

        Raises InputError, naming the client, where not even the highest rate fits.
        """
        usable = self.usable_memory_bytes(plan.client)
        step = self.model.facts.longest_step(plan.client)
        try:
            return self.model.work.least_rate(step, usable)
        except InputError as error:
            raise InputError(
                f"memory of client {plan.client}",
                f"{usable:.3g} bytes usable",
                error.allowed,
                error.remedy,
            ) from None

    @cached_property
    def split(self) -> SplitRoundCosts | None:
        """What a split costs in this round; None for a method that does not split."""
        model = self.model
        if model.split is None:
            return None
        return SplitRoundCosts(
            model.split, model.devices, model.work, model.facts, self.round_index, model.transfer
        )

    def _coding_flops(self, plan: ClientPlan) -> float:
        """Reading the broadcast and encoding the update [FLOP]."""
        model = self.model
        with asked("downlink codec", model.downlink, self.round_index):
            received = model.downlink.receiver_flops(model.shapes, plan)
        with asked("codec", model.codec, self.round_index, plan.client):
            return received + model.payloads.encoding_flops(plan)

    @property
    def _tuner(self) -> Tuner:
        assert isinstance(self.model.tuner, Tuner), "a cohort that trains together is charged apart"
        return self.model.tuner

    def _steps(self, plan: ClientPlan) -> Sequence[Step]:
        if plan.client not in self._steps_of:
            steps = self.model.facts.step_shapes(plan.client, self.round_index)
            self._steps_of[plan.client] = steps
        return self._steps_of[plan.client]


@dataclass(frozen=True)
class ChargedRound:
    """What a round took: its clients in the order of the plan.

    `server_s` and what follows from it are those of the main server of a split model.
    """

    clients: Sequence[ClientRecord]
    latency: RoundLatency
    downlink_bits: int
    server_s: float | None = None
    server_flops: float | None = None
    server_energy_j: float | None = None

    @property
    def in_time(self) -> frozenset[int]:
        """Whose updates count. The main server's counts where a client's does: alone it would
        part from the halves that it was trained with."""
        clients = {entry.client for entry in self.clients if entry.outcome == IN_TIME}
        return frozenset({*clients, MAIN_SERVER} if clients else clients)
