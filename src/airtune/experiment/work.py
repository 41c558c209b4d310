"""The work of the charged model: FLOPs, bits and memory of each client's training."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from airtune.cost.device import DeviceProfile, refuse_small_memory
from airtune.errors import InputError
from airtune.experiment.shards import Shards
from airtune.federated.method import Method
from airtune.round_plan import ClientPlan, Decision
from airtune.tuning.tuner import Tuner
from airtune.workload.adapter_shape import (
    AdapterShape,
    EveryParameter,
    Trained,
    adapter_parameters,
    adapter_tensors,
)
from airtune.workload.affine import affine_flops, distinct_rates, rate_that_fits
from airtune.workload.architecture import Architecture
from airtune.workload.block import Linear, Role
from airtune.workload.pruning import attention_units, prunes_groups
from airtune.workload.split import SplitFlops
from airtune.workload.step import Step
from airtune.workload.transformer import Precision, Workload, split_workload, workload

Key = tuple[Step, float, int, bool]
"""Batch, pruning rate, rank, whether A is frozen."""


@dataclass(frozen=True)
class TrainingWork:
    """The charged model's work in one optimiser step, remembered by its shape.

    LoRA needs logits at labels only; where every parameter is trained all are computed
    (`tuning.label_loss`), and the steps are counted so.
    """

    architecture: Architecture
    adapter: Trained
    precision: Precision
    shards: Shards
    devices: tuple[DeviceProfile, ...]
    _known: dict[Key, Workload] = field(default_factory=dict, repr=False)
    _flops: dict[tuple[object, ...], tuple[int, float]] = field(default_factory=dict, repr=False)
    _points: dict[tuple[int, bool], list[int]] = field(default_factory=dict, repr=False)
    _lines: dict[tuple[int, int], float] = field(default_factory=dict, repr=False)

    def of(self, rows: int, tokens: int) -> Workload:
        """Parameters, FLOPs and memory of a batch with the whole adapter and all its logits."""
        return self._of(Step(rows, tokens))

    def step_flops(
        self, step: Step, pruning_rate: float = 0.0, rank: int | None = None, frozen_a: bool = False
    ) -> float:
        """Forward and backward of one optimiser step [FLOP].

        The count is linear in the rows of logits, so shapes are remembered without them.
        """
        key = (step.batch_size, step.tokens, pruning_rate, rank, frozen_a)
        if key not in self._flops:
            rows, tokens = step.batch_size, step.tokens
            whole = self._of(Step(rows, tokens), pruning_rate, rank, frozen_a).flops
            one = self._of(Step(rows, tokens, label_tokens=1), pruning_rate, rank, frozen_a).flops
            self._flops[key] = one, (whole - one) / max(step.positions - 1, 1)
        one, each = self._flops[key]
        return one + each * (self._logit_rows(step) - 1)

    def _of(
        self, step: Step, pruning_rate: float = 0.0, rank: int | None = None, frozen_a: bool = False
    ) -> Workload:
        key = (step, pruning_rate, rank or self.adapter.highest_rank, frozen_a)
        if key not in self._known:
            adapter = self.adapter
            if isinstance(adapter, AdapterShape):
                adapter = replace(adapter.at_most(key[2]), frozen_a=frozen_a)
            self._known[key] = workload(
                self.architecture, adapter, step, pruning_rate, self.precision
            )
        return self._known[key]

    def _logit_rows(self, step: Step) -> int:
        whole = isinstance(self.adapter, EveryParameter)
        return step.positions if whole else step.logit_rows

    def step_bytes(
        self, step: Step, pruning_rate: float = 0.0, rank: int | None = None, frozen_a: bool = False
    ) -> int:
        """Peak memory of one optimiser step, with all its logits."""
        whole = Step(step.batch_size, step.tokens)
        return self._of(whole, pruning_rate, rank, frozen_a).memory_bytes

    def affine_flops(self, step: Step) -> tuple[float, float]:
        """`fixed` and `prunable` of a step: fixed + (1 - rate) prunable [FLOP]."""
        key = (step.batch_size, step.tokens)
        if key not in self._lines:
            line = affine_flops(self.architecture, self.adapter, Step(*key))
            self._lines[key] = float(line.prunable)
        # The LM head is never pruned, so the logits belong to what is fixed.
        prunable = self._lines[key]
        return self.step_flops(step) - prunable, prunable

    def gram_flops(self) -> float:
        """Products of every factor's rank vectors with each other, `sum 2 r^2 (in + out)`."""
        shapes = adapter_tensors(self.architecture, self.adapter).values()
        return 2.0 * sum(min(shape) ** 2 * max(shape) for shape in shapes)

    def adapter_bytes(self) -> int:
        """One fp32 copy of what is trained."""
        return 4 * adapter_parameters(self.architecture, self.adapter)

    def product_flops(self) -> float:
        """All products `B A` of the blocks, `sum 2 r in out`."""
        return self._all_products

    @cached_property
    def _all_products(self) -> float:
        return self._products(self.architecture.structure.linears)

    def _products(self, linears: Sequence[Linear]) -> float:
        adaptation, widths = self.adapter.adaptation(self.architecture), self.architecture.widths
        return sum(
            2.0 * adaptation.in_block(block).of(one) * one.input_width(widths)
            * one.output_width(widths)
            for block in range(self.architecture.block_count)
            for one in linears
        )  # fmt: skip

    def scoring_flops(self, batches: Sequence[tuple[int, int, int]]) -> float:
        """Activation-weighted scores from batches of (rows, tokens, real tokens).

        Forward passes; covariances `2 u w^2` a real token and block for u attention units of w
        inputs; `2 u w^2 h` a block for their product with the u w columns of the output matrix
        (hidden width h); products B A of the two matrices that write into the residual stream.
        """
        widths, blocks = self.architecture.widths, self.architecture.block_count
        layout = attention_units(widths) * (1 if prunes_groups(widths) else widths.kv_heads)
        square = 2.0 * widths.query**2 / layout
        forward = sum(self._forward(rows, tokens).forward_flops for rows, tokens, _ in batches)
        real = sum(tokens for _, _, tokens in batches)
        writers = [
            linear
            for linear in self.architecture.structure.linears
            if linear.role in (Role.OUTPUT, Role.DOWN)
        ]
        covariance = blocks * square * (real + widths.hidden)
        return forward + covariance + self._products(writers)

    def _forward(self, rows: int, tokens: int) -> Workload:
        return workload(
            self.architecture, self.adapter, Step(rows, tokens, logit_positions=1), 0.0,
            self.precision,
        )  # fmt: skip

    def forward_bytes(self, rows: int, tokens: int) -> int:
        """Weights, the adapter, and the activations of one block: a forward pass keeps no more."""
        widths = self.architecture.widths
        numbers = 4 * widths.hidden + 3 * max(widths.neurons, widths.query)
        held = self._forward(rows, tokens).parameters + rows * tokens * numbers
        return held * self.precision.dtype_bytes + self.adapter_bytes()

    def realisable_rates(self) -> list[float]:
        """Pruning rates at which one more unit goes, ascending from 0."""
        return distinct_rates(self.architecture)

    def longest_step(self, client: int) -> Step:
        """A batch of the longest row that a client holds."""
        longest = int(self.shards.train.length[self.shards.parts[client]].max())
        return Step(self.shards.batch_size, longest)

    def split_flops(self, step: Step, split_point: int) -> SplitFlops:
        """Operations on both sides of the cut."""
        whole = SplitFlops.of(self.of(step.batch_size, step.tokens), split_point)
        single = Step(step.batch_size, step.tokens, label_tokens=1)
        one = SplitFlops.of(self._of(single), split_point)
        return whole.with_logits(one, step)

    def split_memory_bytes(self, client: int, split_point: int, keeps_labels: bool) -> int:
        """Peak memory of the client half, with the LM head and the loss where labels stay."""
        step = self.longest_step(client)
        half, rest = split_workload(
            self.architecture, self.adapter, step, split_point, precision=self.precision
        )
        head = rest.parts[-1].memory_bytes + rest.working_bytes if keeps_labels else 0
        return half.memory_bytes + head

    def split_points(self, client: int, keeps_labels: bool) -> list[int]:
        """The split points whose client half fits the client's memory, ascending.

        Raises InputError, naming the client, where not even one block fits.
        """
        key = (client, keeps_labels)
        if key not in self._points:
            points = list(range(1, self.architecture.block_count))
            if not points:
                raise InputError("model", "a single block", "a model of at least 2 blocks to split")
            device = self.devices[client]

            def needed(point: int) -> int:
                return self.split_memory_bytes(client, point, keeps_labels)

            refuse_small_memory(f"client {client}", device, needed(points[0]))
            fitting = bisect_right(points, device.usable_memory_bytes, key=needed)
            self._points[key] = points[:fitting]
        return self._points[key]

    def least_rate(self, client: int) -> float:
        """The pruning rate at which a client fits its memory; 0 where the whole model does.

        Raises InputError, naming the client, where not even the highest rate fits.
        """
        usable = self.devices[client].usable_memory_bytes
        step = self.longest_step(client)
        if self.step_bytes(step) <= usable:
            return 0.0
        try:
            return rate_that_fits(self.architecture, self.adapter, step, usable, self.precision)
        except InputError as error:
            raise InputError(
                f"memory of client {client}", f"{usable:.3g} bytes usable", error.allowed,
                error.remedy,
            ) from None  # fmt: skip

    def refuse_small_memory(self, method: Method) -> None:
        """Raise InputError for the first client whose device cannot hold the least that the
        planner may ask of it; what it does ask is checked with every plan."""
        decides, tuner = method.planner.decides, method.tuner
        highest = self.adapter.highest_rank
        rank = min(1, highest) if Decision.RANK in decides else highest
        for client, device in enumerate(self.devices):
            if method.split is not None:
                self.split_points(client, method.split.labels_at == "client")
                continue
            assert isinstance(tuner, Tuner), "only a split model trains its cohort together"
            plan = ClientPlan(client, 0.0, 0.0, rank)
            if Decision.PRUNING in decides:
                plan = replace(plan, pruning_rate=self.least_rate(client))
            needed = tuner.memory_bytes(plan, self.longest_step(client), self)
            refuse_small_memory(f"client {client}", device, needed)
