"""The work of one model: FLOPs and memory of optimiser steps, remembered by their shape.

It knows the architecture, what is trained and the number format. Which client makes which steps is
`federated.facts`; what a whole plan takes is the tuner's answer (`tuning.tuner`).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias, final

from airtune.workload.adapter_shape import (
    AdapterShape,
    EveryParameter,
    Trained,
    adapter_parameters,
    adapter_tensors,
)
from airtune.workload.architecture import (
    Architecture,
    Decoder,
    attention_units,
    closed_form,
    prunes_groups,
)
from airtune.workload.block import Linear, Role
from airtune.workload.decisions import (
    SplitFlops,
    affine_flops,
    distinct_rates,
    rate_that_fits,
    training_flops,
)
from airtune.workload.precision import Precision
from airtune.workload.step import Step
from airtune.workload.transformer import Workload, split_workload, workload

_Key: TypeAlias = tuple[Step, float, int, bool]
"""Batch, pruning rate, rank, whether A is frozen."""
_Newton: TypeAlias = tuple[int, int, int]
"""Value, first and second forward difference of a polynomial of degree 2."""


def _differences(values: Sequence[int]) -> _Newton:
    first, second, third = values
    return first, second - first, third - 2 * second + first


def _newton(differences: _Newton, place: int) -> int:
    """The polynomial so many steps after its first value: `f + n d1 + n (n - 1) / 2 d2`, exact."""
    value, slope, curve = differences
    return value + place * slope + place * (place - 1) // 2 * curve


@dataclass(frozen=True)
class _Halves:
    """`SplitFlops` of any length, from those of 1, 2 and 3 tokens: each count by itself."""

    counts: tuple[_Newton, ...]

    @classmethod
    def of(cls, samples: Sequence[SplitFlops]) -> "_Halves":
        lengths = [[int(count) for count in vars(one).values()] for one in samples]
        return cls(tuple(_differences(count) for count in zip(*lengths, strict=True)))

    def at(self, place: int) -> SplitFlops:
        """So many tokens more than one."""
        return SplitFlops(*(float(_newton(each, place)) for each in self.counts))


@final
@dataclass(frozen=True)
class ModelWork:
    """FLOPs and bytes of one optimiser step of a model, and of what tuners do beside steps.

    LoRA needs logits at labels only; where every parameter is trained all are computed
    (`tuning.label_loss`), and the steps are counted so.
    """

    architecture: Decoder
    adapter: Trained
    precision: Precision
    # Caches of this instance alone: `replace` starts empty ones.
    _known: dict[_Key, Workload] = field(default_factory=dict, init=False, repr=False)
    _flops: dict[Hashable, tuple[int, float]] = field(default_factory=dict, init=False, repr=False)
    _bytes: dict[Hashable, int] = field(default_factory=dict, init=False, repr=False)
    _lengths: dict[Hashable, tuple[_Newton, ...]] = field(
        default_factory=dict, init=False, repr=False
    )
    _prunable: dict[tuple[int, int], float] = field(default_factory=dict, init=False, repr=False)
    _halves: dict[tuple[int, int], tuple["_Halves", ...]] = field(
        default_factory=dict, init=False, repr=False
    )
    _least: dict[tuple[Step, float], float] = field(default_factory=dict, init=False, repr=False)
    _half_bytes: dict[Hashable, int] = field(default_factory=dict, init=False, repr=False)

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
        known = self._flops.get(key)
        if known is None:
            whole, one = self._whole_and_one(step, pruning_rate, rank, frozen_a)
            known = self._flops[key] = one, (whole - one) / max(step.positions - 1, 1)
        return known[0] + known[1] * ((step.positions if self._trains_all else step.logit_rows) - 1)

    def _whole_and_one(
        self, step: Step, pruning_rate: float, rank: int | None, frozen_a: bool
    ) -> tuple[int, int]:
        """A step with all its logits, and with one row of them [FLOP].

        In closed form both are whole numbers and polynomials of degree 2 in the tokens, known from
        three lengths; a model that is counted is run at every length.
        """
        rows, tokens = step.batch_size, step.tokens
        options = pruning_rate, rank, frozen_a

        def counted(length: int) -> tuple[int, int]:
            return (
                self._flops_of(Step(rows, length), *options),
                self._flops_of(Step(rows, length, label_tokens=1), *options),
            )

        most = self.architecture.max_tokens
        if not isinstance(self.architecture, Architecture) or not 3 <= tokens <= most:
            return counted(tokens)
        key = (rows, *options)
        if key not in self._lengths:
            samples = tuple(counted(length) for length in (1, 2, 3))
            self._lengths[key] = tuple(_differences(each) for each in zip(*samples, strict=True))
        whole, one = (_newton(each, tokens - 1) for each in self._lengths[key])
        return whole, one

    def _of(
        self, step: Step, pruning_rate: float = 0.0, rank: int | None = None, frozen_a: bool = False
    ) -> Workload:
        key = (step, pruning_rate, rank or self.adapter.highest_rank, frozen_a)
        if key not in self._known:
            adapter = self._trained_part(key[2], frozen_a)
            self._known[key] = workload(
                self.architecture, adapter, step, pruning_rate, self.precision
            )
        return self._known[key]

    def _flops_of(self, step: Step, pruning_rate: float, rank: int | None, frozen_a: bool) -> int:
        """Operations of a step; where no memory is needed, without counting it part by part."""
        if not isinstance(self.architecture, Architecture):
            return self._of(step, pruning_rate, rank, frozen_a).flops
        adapter = self._trained_part(rank or self.adapter.highest_rank, frozen_a)
        return training_flops(self.architecture, adapter, step, pruning_rate, self.precision)

    def _trained_part(self, rank: int, frozen_a: bool) -> Trained:
        """What is trained of an adapter of at most this rank."""
        if not isinstance(self.adapter, AdapterShape):
            return self.adapter
        return replace(self.adapter.at_most(rank), frozen_a=frozen_a)

    @cached_property
    def _trains_all(self) -> bool:
        """Every parameter is trained, and then all logits are computed."""
        return isinstance(self.adapter, EveryParameter)

    def step_bytes(
        self, step: Step, pruning_rate: float = 0.0, rank: int | None = None, frozen_a: bool = False
    ) -> int:
        """Peak memory of one optimiser step, with all its logits."""
        key = (step.batch_size, step.tokens, pruning_rate, rank, frozen_a)
        if key not in self._bytes:
            whole = Step(step.batch_size, step.tokens)
            self._bytes[key] = self._of(whole, pruning_rate, rank, frozen_a).memory_bytes
        return self._bytes[key]

    def forward_flops(self, step: Step) -> float:
        """A forward pass with the whole adapter and logits at labels only [FLOP].

        Where nothing needs a gradient that holds for every parameter, too.
        """
        key = (step.batch_size, step.tokens, "forward")
        if key not in self._flops:
            whole, one = (
                self._of(Step(step.batch_size, step.tokens, label_tokens=labels)).forward_flops
                for labels in (None, 1)
            )
            self._flops[key] = one, (whole - one) / max(step.positions - 1, 1)
        one, each = self._flops[key]
        return one + each * (step.logit_rows - 1)

    def inference_bytes(self, step: Step) -> int:
        """Peak memory of a forward pass, rather too much: weights, the adapter, and the larger of
        what the widest part would keep for a backward pass (some of it is freed earlier) and
        all logits with their log-probabilities, fp32."""
        key = (step.batch_size, step.tokens, "inference")
        if key not in self._bytes:
            held = self.precision.in_memory(Step(step.batch_size, step.tokens))
            work, model = self._of(held), self.architecture
            adapter = 0 if self._trains_all else self.adapter_bytes()
            loss = 2 * 4 * held.positions * model.vocab_size
            kept = max(part.stored_bytes for part in work.parts)
            working = self.precision.working_bytes(model, loss, kept)
            self._bytes[key] = work.weight_bytes + adapter + working
        return self._bytes[key]

    def trained_numbers(self) -> int:
        """How many numbers are trained."""
        return self._trained

    @cached_property
    def _trained(self) -> int:
        return adapter_parameters(self.architecture, self.adapter)

    def affine_flops(self, step: Step) -> tuple[float, float]:
        """`fixed` and `prunable` of a step: fixed + (1 - rate) prunable [FLOP]."""
        key = (step.batch_size, step.tokens)
        if key not in self._prunable:
            self._prunable[key] = float(self._prunable_flops(*key))
        # The LM head is never pruned, so the logits belong to what is fixed.
        prunable = self._prunable[key]
        return self.step_flops(step) - prunable, prunable

    def _prunable_flops(self, rows: int, tokens: int) -> int:
        """Of so many tokens; of any length as in `_whole_and_one`."""

        def counted(length: int) -> int:
            step, again = Step(rows, length), self.precision.checkpointing
            return affine_flops(self.architecture, self.adapter, step, again).prunable

        if not 3 <= tokens <= self.architecture.max_tokens:
            return counted(tokens)
        key = rows, "prunable"
        if key not in self._lengths:
            self._lengths[key] = (_differences([counted(length) for length in (1, 2, 3)]),)
        return _newton(self._lengths[key][0], tokens - 1)

    def gram_flops(self) -> float:
        """Products of every factor's rank vectors with each other, `sum 2 r^2 (in + out)`."""
        shapes = adapter_tensors(self.architecture, self.adapter).values()
        return 2.0 * sum(min(shape) ** 2 * max(shape) for shape in shapes)

    def adapter_bytes(self) -> int:
        """One fp32 copy of what is trained."""
        return 4 * self.trained_numbers()

    def product_flops(self) -> float:
        """All products `B A` of the blocks, `sum 2 r in out`."""
        return self._all_products

    @property
    def _closed(self) -> Architecture:
        """Scores of units are counted in closed form alone."""
        return closed_form(self.architecture, "pruned")

    @cached_property
    def _all_products(self) -> float:
        return self._products(self._closed.structure.linears)

    def _products(self, linears: Sequence[Linear]) -> float:
        adaptation, widths = self.adapter.adaptation(self._closed), self._closed.widths
        return sum(
            2.0
            * adaptation.in_block(block).of(one)
            * one.input_width(widths)
            * one.output_width(widths)
            for block in range(self._closed.block_count)
            for one in linears
        )

    def scoring_flops(self, batches: Sequence[tuple[int, int, int]]) -> float:
        """Activation-weighted scores from batches of (rows, tokens, real tokens).

        Forward passes; covariances `2 u w^2` a real token and block for u attention units of w
        inputs; `2 u w^2 h` a block for their product with the u w columns of the output matrix
        (hidden width h); products B A of the two matrices that write into the residual stream.
        """
        widths, blocks = self._closed.widths, self._closed.block_count
        layout = attention_units(widths) * (1 if prunes_groups(widths) else widths.kv_heads)
        square = 2.0 * widths.query**2 / layout
        forward = sum(self._forward(rows, tokens).forward_flops for rows, tokens, _ in batches)
        real = sum(tokens for _, _, tokens in batches)
        writers = [
            linear
            for linear in self._closed.structure.linears
            if linear.role in (Role.OUTPUT, Role.DOWN)
        ]
        covariance = blocks * square * (real + widths.hidden)
        return forward + covariance + self._products(writers)

    def _forward(self, rows: int, tokens: int) -> Workload:
        return workload(
            self.architecture,
            self.adapter,
            Step(rows, tokens, logit_positions=1),
            0.0,
            self.precision,
        )

    def forward_bytes(self, rows: int, tokens: int) -> int:
        """Weights, the adapter, and the activations of one block: a forward pass keeps no more."""
        widths = self._closed.widths
        numbers = 4 * widths.hidden + 3 * max(widths.neurons, widths.query)
        activations = rows * tokens * numbers * self.precision.dtype_bytes
        return self._forward(rows, tokens).weight_bytes + activations + self.adapter_bytes()

    def realisable_rates(self) -> list[float]:
        """Pruning rates at which one more unit goes, ascending from 0."""
        return self._rates

    @cached_property
    def _rates(self) -> list[float]:
        return distinct_rates(self.architecture)

    def split_flops(self, step: Step, split_point: int, pruning_rate: float = 0.0) -> SplitFlops:
        """Operations on both sides of the cut; at a pruning rate the client's side is smaller."""
        whole, one = self._halves_of(step, split_point)
        found = whole.with_logits(one, step)
        if pruning_rate == 0.0:
            return found
        narrow = self._of(Step(step.batch_size, step.tokens), pruning_rate)
        client = SplitFlops.of(narrow, split_point)
        return replace(
            found, client_forward=client.client_forward, client_backward=client.client_backward
        )

    def _halves_of(self, step: Step, split_point: int) -> tuple[SplitFlops, SplitFlops]:
        """With all logits, and with one row of them; of any length as in `_whole_and_one`."""
        rows, tokens = step.batch_size, step.tokens
        if not 3 <= tokens <= self.architecture.max_tokens:
            return self._halves_at(rows, tokens, split_point)
        key = rows, split_point
        if key not in self._halves:
            samples = [self._halves_at(rows, length, split_point) for length in (1, 2, 3)]
            self._halves[key] = tuple(_Halves.of(each) for each in zip(*samples, strict=True))
        whole, one = (halves.at(tokens - 1) for halves in self._halves[key])
        return whole, one

    def _halves_at(self, rows: int, tokens: int, split_point: int) -> tuple[SplitFlops, SplitFlops]:
        return (
            SplitFlops.of(self.of(rows, tokens), split_point),
            SplitFlops.of(self._of(Step(rows, tokens, label_tokens=1)), split_point),
        )

    def split_memory_bytes(
        self, step: Step, split_point: int, keeps_labels: bool, pruning_rate: float = 0.0
    ) -> int:
        """Peak memory of the client half, with the LM head and the loss where labels stay."""
        key = (step, split_point, keeps_labels, pruning_rate)
        if key not in self._half_bytes:
            half, rest = split_workload(
                self.architecture,
                self.adapter,
                step,
                split_point,
                pruning_rate,
                precision=self.precision,
            )
            head = rest.parts[-1].memory_bytes + rest.working_bytes if keeps_labels else 0
            self._half_bytes[key] = half.memory_bytes + head
        return self._half_bytes[key]

    def least_rate(self, step: Step, usable_bytes: float) -> float:
        """The least pruning rate at which a step, with all its logits, fits a memory [byte].

        Raises InputError where not even the highest rate fits.
        """
        if self.step_bytes(step) <= usable_bytes:
            return 0.0
        key = Step(step.batch_size, step.tokens), usable_bytes
        if key not in self._least:
            self._least[key] = rate_that_fits(self.architecture, self.adapter, *key, self.precision)
        return self._least[key]
