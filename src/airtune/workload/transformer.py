"""The work of one training step, part by part: embedding, every block, LM head.

A function of architecture, adapter shape, batch, pruning rate and split point; nothing is loaded
or timed, so a 70 B model costs as little as a small one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from airtune.errors import InputError
from airtune.workload.adapter_shape import AdapterShape, EveryParameter, Trained
from airtune.workload.architecture import Architecture, Decoder, closed_form, pruned
from airtune.workload.block import Adaptation, Linear, Matrix
from airtune.workload.counted import CountedArchitecture, Learned, PartCount
from airtune.workload.payload import dtype_bits
from airtune.workload.precision import DEFAULT_PRECISION, Precision, refuse_in_split, refuse_pruned
from airtune.workload.quantised import matrix_bytes
from airtune.workload.step import (
    ADAPTER_BYTES,
    Flops,
    Step,
    block_flops,
    block_stored_bytes,
    chain_stored_bytes,
    embedding_flops,
    head_flops,
    head_stored_bytes,
    loss_bytes,
    with_recomputing,
)


@dataclass(frozen=True)
class Part:
    """One part of the model in one training step.

    `activation_bits` is the size of its output, which is what a cut after it sends;
    `stored_bytes` is what it keeps for the backward pass; `memory_bytes` adds its weights, what is
    trained of it or beside it (`adapter_parameters`), the gradient and the optimiser's moments.
    `weight_bytes` are the model's own weights, with the scales of quantised ones.
    `recomputed_bytes` is what a checkpointed block keeps while its own backward pass runs.
    """

    name: str
    parameters: int
    adapter_parameters: int
    forward_flops: int
    backward_flops: int
    activation_bits: int
    stored_bytes: int
    memory_bytes: int
    weight_bytes: int
    recomputed_bytes: int = 0


@dataclass(frozen=True)
class Workload:
    """All parts of a model, or of one half of a split one; totals are sums over them.

    `working_bytes` is what no part owns: the arrays around the loss, or the cut tensor and its
    gradient on the client half; of a quantised base also the largest matrix as it is multiplied,
    which is never alive together with the arrays around the loss, and the table of its scales; with
    checkpointing what the largest block keeps while it is recomputed, likewise.
    """

    parts: tuple[Part, ...]
    working_bytes: int

    @property
    def parameters(self) -> int:
        """Parameters of the model held, frozen or not."""
        return sum(part.parameters for part in self.parts)

    @property
    def adapter_parameters(self) -> int:
        """Trained parameters."""
        return sum(part.adapter_parameters for part in self.parts)

    @property
    def forward_flops(self) -> int:
        """Operations of the forward pass of one step."""
        return sum(part.forward_flops for part in self.parts)

    @property
    def backward_flops(self) -> int:
        """Operations of the backward pass of one step."""
        return sum(part.backward_flops for part in self.parts)

    @property
    def flops(self) -> int:
        """Operations of one step, forward and backward."""
        return self.forward_flops + self.backward_flops

    @property
    def weight_bytes(self) -> int:
        """The model's own weights as they are held."""
        return sum(part.weight_bytes for part in self.parts)

    @property
    def memory_bytes(self) -> int:
        """Peak memory: weights, adapter, gradients, optimiser, kept activations, the loss.

        The gradients are those of the step before, held until the next backward pass. Left out: the
        runtime itself (Python and PyTorch, 0.3 to 0.5 GB), temporaries inside one operation, the
        allocator's fragmentation, tokenised data, and a second copy of the adapter.
        """
        return sum(part.memory_bytes for part in self.parts) + self.working_bytes


def workload(
    architecture: Decoder,
    adapter: Trained,
    step: Step,
    pruning_rate: float = 0.0,
    precision: Precision = DEFAULT_PRECISION,
) -> Workload:
    """The whole model's work in one step, with every block pruned at `pruning_rate`.

    Raises InputError for target modules, ranks, rates and lengths that the model does not allow,
    for every parameter of a pruned model, or of one below fp32, and for a pruned quantised base.
    """
    check_step(architecture, adapter, step, pruning_rate, precision)
    if isinstance(architecture, CountedArchitecture):
        if pruning_rate:
            closed_form(architecture, "pruned")
        return _counted(architecture, adapter, step, precision)
    adaptation = adapter.adaptation(architecture)
    builder = _Builder(pruned(architecture, pruning_rate), adaptation, step, precision)
    parts = builder.parts(range(architecture.block_count))
    held = precision.in_memory(step)
    small = parts
    if held != step:
        small = replace(builder, step=held).parts(range(architecture.block_count))
    return _with_memory(architecture, precision, parts, small, held)


def _with_memory(
    architecture: Decoder,
    precision: Precision,
    parts: Sequence[Part],
    small: Sequence[Part],
    held: Step,
) -> Workload:
    """The operations of one step with the memory of `held`, the part of it that `small` counts."""
    names = ("stored_bytes", "memory_bytes", "recomputed_bytes")
    found = tuple(
        replace(part, **{name: getattr(one, name) for name in names})
        for part, one in zip(parts, small, strict=True)
    )
    recomputed = max(part.recomputed_bytes for part in small)
    loss = loss_bytes(architecture, held)
    return Workload(found, precision.working_bytes(architecture, loss, recomputed))


def split_workload(
    architecture: Decoder,
    adapter: Trained,
    step: Step,
    split_point: int,
    pruning_rate: float = 0.0,
    precision: Precision = DEFAULT_PRECISION,
) -> tuple[Workload, Workload]:
    """The client half (embedding and `split_point` blocks) and the server half (the rest, LM head).

    FLOPs of the halves add up to the whole model's. Both halves hold the token table of a tied
    model, so parameters add up to more. Raises InputError unless 1 <= split_point < blocks, and for
    every parameter: what a split trains is LoRA.
    """
    if isinstance(adapter, EveryParameter):
        raise InputError("split_point", split_point, "left out where every parameter is trained")
    refuse_in_split(precision.checkpointing, precision.micro_batches)
    architecture = closed_form(architecture, "split")
    check_step(architecture, adapter, step, pruning_rate, precision)
    last = architecture.block_count - 1
    if not 1 <= split_point <= last:
        raise InputError(
            "split_point", split_point, f"from 1 to {last} (of {architecture.block_count} blocks)"
        )
    adaptation = adapter.adaptation(architecture)
    builder = _Builder(pruned(architecture, pruning_rate), adaptation, step, precision)
    parts = builder.parts(range(architecture.block_count))
    client, (*blocks, head) = parts[: split_point + 1], parts[split_point + 1 :]
    if architecture.tied:
        table = architecture.vocab_size * architecture.widths.embedding
        head = replace(
            head,
            parameters=head.parameters + table,
            memory_bytes=head.memory_bytes + table * precision.dtype_bytes,
            weight_bytes=head.weight_bytes + table * precision.dtype_bytes,
        )
    cut_bytes = 2 * step.positions * architecture.hidden_size * precision.dtype_bytes
    at_client = cut_bytes + precision.working_bytes(architecture)
    at_server = precision.working_bytes(architecture, loss_bytes(architecture, step))
    return Workload(client, at_client), Workload((*blocks, head), at_server)


def total_flops(
    architecture: Architecture, adaptation: Adaptation, step: Step, checkpointing: bool = False
) -> int:
    """Forward and backward operations of one step, without the bookkeeping per part."""
    flops = embedding_flops(architecture, adaptation, step)
    total = flops.forward + flops.backward
    # As in `_Builder.parts`, blocks that do the same work are counted once.
    kinds: dict[tuple[bool, Adaptation], Flops] = {}
    for block in range(architecture.block_count):
        kind = flops.output_needs_gradient, adaptation.in_block(block)
        if kind not in kinds:
            counted = block_flops(architecture, kind[1], step, kind[0])
            kinds[kind] = with_recomputing(counted, checkpointing)
        flops = kinds[kind]
        total += flops.forward + flops.backward
    head = head_flops(architecture, adaptation, step, flops.output_needs_gradient)
    return total + head.forward + head.backward


def activation_bits(architecture: Decoder, tokens: int, dtype: str = "fp32") -> int:
    """Bits of the activations of `tokens` real tokens at any cut between two blocks.

    tokens x hidden width x bits per number: in a decoder the cut's place does not matter. Left out:
    the frame around them, masks, positions and labels, which the codec at the cut counts.
    """
    return tokens * architecture.hidden_size * dtype_bits(dtype)


def check_step(
    architecture: Decoder,
    adapter: Trained,
    step: Step,
    pruning_rate: float,
    precision: Precision,
) -> None:
    """Raise InputError for what a model, or its number format, does not allow."""
    if step.tokens > architecture.max_tokens:
        allowed = f"at most {architecture.max_tokens} for this model"
        raise InputError("tokens", step.tokens, allowed)
    whole = adapter.adaptation(architecture).whole
    if whole and pruning_rate:
        raise InputError("pruning_rate", pruning_rate, "0 where every parameter is trained")
    if whole and precision.dtype != "fp32":
        raise InputError("dtype", precision.dtype, "fp32 where every parameter is trained")
    if pruning_rate:
        refuse_pruned(precision.dtype)


def _counted(
    architecture: CountedArchitecture, adapter: Trained, step: Step, precision: Precision
) -> Workload:
    """A model without closed form; it computes the logits of every position."""
    whole = isinstance(adapter, EveryParameter)
    trained = Learned(
        adapter.ranks(architecture),
        isinstance(adapter, AdapterShape) and adapter.frozen_a,
        whole,
        precision.compute_dtype,
        precision.attention,
    )
    held = precision.in_memory(Step(step.batch_size, step.tokens))
    inside: dict[str, list[Matrix]] = {}
    for matrix in architecture.matrices:
        inside.setdefault(f"block {matrix.block}", []).append(matrix)
    parts, small = (
        [
            _counted_part(part, whole, precision, inside.get(part.name, []))
            for part in architecture.parts(trained, rows, step.tokens)
        ]
        for rows in (step.batch_size, held.batch_size)
    )
    return _with_memory(architecture, precision, parts, small, held)


def _counted_part(part: PartCount, whole: bool, precision: Precision, inside: list[Matrix]) -> Part:
    """`inside` are the part's matrices if it is a block."""
    weights = part.parameters * precision.dtype_bytes
    if precision.is_quantised:
        for matrix in inside:
            weights -= matrix.read * matrix.write * precision.dtype_bytes
            weights += matrix_bytes(precision.dtype, matrix.write, matrix.read)
    again = precision.checkpointing and part.name.startswith("block ")
    kept = part.outputs * precision.dtype_bytes if again else part.stored_bytes
    memory = precision.memory_bytes(0 if whole else weights, part.trained, kept)
    return Part(
        name=part.name,
        parameters=part.parameters,
        adapter_parameters=part.trained,
        forward_flops=part.forward,
        # What needs no gradient has no backward pass, in which it could run again.
        backward_flops=part.backward + part.forward * (again and part.backward > 0),
        activation_bits=part.outputs * 8 * precision.dtype_bytes,
        stored_bytes=kept,
        memory_bytes=memory + ADAPTER_BYTES * part.held,
        weight_bytes=weights,
        recomputed_bytes=part.stored_bytes * again,
    )


@dataclass(frozen=True)
class _Builder:
    """Makes the parts in forward order, handing on whether something trainable lies below."""

    architecture: Architecture
    adaptation: Adaptation
    step: Step
    precision: Precision

    def parts(self, blocks: range) -> tuple[Part, ...]:
        flops = embedding_flops(self.architecture, self.adaptation, self.step)
        parts = [self._embedding(flops)]
        needs = flops.output_needs_gradient
        # Blocks of one adaptation do the same work above the first trained one: few are counted.
        kinds: dict[tuple[bool, Adaptation], tuple[Part, bool]] = {}
        for block in blocks:
            kind = needs, self.adaptation.in_block(block)
            if kind not in kinds:
                kinds[kind] = self._block(*kind)
            part, needs = kinds[kind]
            parts.append(replace(part, name=f"block {block}"))
        flops = head_flops(self.architecture, self.adaptation, self.step, needs)
        return (*parts, self._head(flops, needs))

    def _part(
        self,
        name: str,
        linears: tuple[Linear, ...],
        other_parameters: int,
        flops: Flops,
        stored: int,
        output_numbers: int,
        adaptation: Adaptation,
    ) -> Part:
        widths = self.architecture.widths
        parameters = other_parameters + sum(linear.parameters(widths) for linear in linears)
        adapters = sum(
            adaptation.of(linear) * (linear.input_width(widths) + linear.output_width(widths))
            for linear in linears
        )
        inside = linears is self.architecture.structure.linears
        weights = other_parameters * self.precision.dtype_bytes + sum(
            self.precision.linear_bytes(linear, widths, inside) for linear in linears
        )
        whole = adaptation.whole
        trained, frozen = (parameters, 0) if whole else (adapters, weights)
        held = 0
        if adaptation.frozen_a:
            held = sum(adaptation.of(linear) * linear.input_width(widths) for linear in linears)
            trained -= held
        return Part(
            name=name,
            parameters=parameters,
            adapter_parameters=trained,
            forward_flops=flops.forward,
            backward_flops=flops.backward,
            activation_bits=output_numbers * 8 * self.precision.dtype_bytes,
            stored_bytes=stored,
            memory_bytes=self.precision.memory_bytes(frozen, trained, stored)
            + ADAPTER_BYTES * held,
            weight_bytes=weights,
        )

    def _embedding(self, flops: Flops) -> Part:
        model = self.architecture
        linears = model.structure.input_linears
        stored = chain_stored_bytes(model, linears, self.adaptation, self.step)
        outputs = self.step.positions * model.hidden_size
        return self._part(
            "embedding", linears, model.table_parameters, flops, stored, outputs, self.adaptation
        )

    def _block(self, needs: bool, adaptation: Adaptation) -> tuple[Part, bool]:
        """A block, and whether what leaves it needs a gradient."""
        model, precision = self.architecture, self.precision
        flops = block_flops(model, adaptation, self.step, needs)
        flops = with_recomputing(flops, precision.checkpointing)
        stored = block_stored_bytes(
            model, adaptation, self.step, needs, precision.dtype_bytes, precision.attention
        )
        linears = model.structure.linears
        beside = model.norm_parameters + model.expert_parameters
        outputs = self.step.positions * model.hidden_size
        recomputed = stored if precision.checkpointing else 0
        kept = outputs * precision.dtype_bytes if precision.checkpointing else stored
        part = self._part("block", linears, beside, flops, kept, outputs, adaptation)
        return replace(part, recomputed_bytes=recomputed), flops.output_needs_gradient

    def _head(self, flops: Flops, needs: bool) -> Part:
        model = self.architecture
        linears = model.structure.output_linears
        stored = chain_stored_bytes(model, linears, self.adaptation, self.step)
        stored += needs * head_stored_bytes(
            model, self.adaptation, self.step, self.precision.dtype_bytes
        )
        outputs = self.step.logit_rows * model.vocab_size
        return self._part(
            "head", linears, model.head_parameters, flops, stored, outputs, self.adaptation
        )
