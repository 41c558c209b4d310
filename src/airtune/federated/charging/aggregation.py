"""What aggregating gradients over clients costs: rows forward and backward, one message for all."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

from airtune.tuning.split.model import StepBits
from airtune.tuning.split.pairing import Pairing, RowShapes, paired
from airtune.update.cut import CutCodec, CutShape
from airtune.workload.decisions import SplitFlops
from airtune.workload.model_work import ModelWork
from airtune.workload.step import Step

NOTHING = SplitFlops(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@final
@dataclass(frozen=True)
class AggregationCosts:
    """The steps of several clients of a split whose gradients are aggregated at this ratio.

    `shapes` [client][step] are those of clients with one cut; of a single client nothing is
    aggregated.
    """

    ratio: float
    shapes: Sequence[Sequence[CutShape]]

    @cached_property
    def pairings(self) -> list[Pairing | None]:
        """The pairs of each local step."""
        steps = zip(*self.shapes, strict=True)
        return [paired([_rows(shape) for shape in step], self.ratio) for step in steps]

    def flops(self, client: int, work: ModelWork, split_point: int) -> list[SplitFlops]:
        """Operations for one client in each step: all its rows forward on both sides, all of them
        backward at the client, and at the server those that are not aggregated."""
        return [
            _client_flops(self.shapes[client][step], pairing, client, work, split_point)
            for step, pairing in enumerate(self.pairings)
        ]

    def mean_flops(self, work: ModelWork, split_point: int) -> list[SplitFlops]:
        """Operations of the server along the path of the mean in each step."""
        return [
            NOTHING
            if pairing is None or pairing.label_tokens == 0
            else _flops(work, _pair_shape(pairing), split_point)
            for pairing in self.pairings
        ]

    def messages(
        self, codec: CutCodec, hidden: int, whole: Sequence[Sequence[StepBits]]
    ) -> list[list[StepBits]]:
        """Each client's messages, of which `whole` are those without aggregation."""
        return [
            [
                self._step_bits(codec, hidden, bits, client, step, pairing)
                for step, (bits, pairing) in enumerate(zip(steps, self.pairings, strict=True))
            ]
            for client, steps in enumerate(whole)
        ]

    def _step_bits(
        self,
        codec: CutCodec,
        hidden: int,
        bits: StepBits,
        client: int,
        step: int,
        pairing: Pairing | None,
    ) -> StepBits:
        if pairing is None:
            return bits
        shape = self.shapes[client][step]
        rest = pairing.rest(client, shape.rows)
        gradient = codec.gradient_bits(shape.of_rows(rest), hidden) if rest else 0
        shared = codec.shared_bits(_pair_shape(pairing), hidden)
        return replace(bits, gradient=gradient, shared=shared)


def _rows(shape: CutShape) -> RowShapes:
    assert shape.each is not None, "the rows of a batch are known where it is made"
    return shape.each


def _pair_shape(pairing: Pairing) -> CutShape:
    return CutShape(len(pairing.tokens), pairing.width, sum(pairing.tokens), pairing.label_tokens)


def _client_flops(
    shape: CutShape, pairing: Pairing | None, client: int, work: ModelWork, split_point: int
) -> SplitFlops:
    whole = _flops(work, shape, split_point)
    if pairing is None:
        return whole
    rest = pairing.rest(client, shape.rows)
    own = _flops(work, shape.of_rows(rest), split_point) if rest else NOTHING
    chosen = _flops(work, shape.of_rows(pairing.rows[client]), split_point)
    return SplitFlops(
        whole.client_forward,
        whole.client_backward,
        own.server_forward + chosen.server_forward,
        own.server_backward,
        own.head_forward + chosen.head_forward,
        own.head_backward,
    )


def _flops(work: ModelWork, shape: CutShape, split_point: int) -> SplitFlops:
    """Of rows of this shape, with logits at their label tokens."""
    if shape.label_tokens:
        step = Step(shape.rows, shape.width, label_tokens=shape.label_tokens)
        return work.split_flops(step, split_point)
    found = work.split_flops(Step(shape.rows, shape.width, label_tokens=1), split_point)
    return replace(found, head_forward=0.0, head_backward=0.0)
