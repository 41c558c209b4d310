"""One optimiser step: the size of its batch, its floating point operations, and its memory.

FLOPs are counted as torch's FlopCounterMode counts them. A product of (m x k) and (k x n) is
2 m k n operations. Attention multiplies full score matrices, as eager attention does, without
halving for causality or leaving out what a sliding window masks. Of experts the busy ones count,
`per_token` for every token, and their router. Backward: gradients of activations wherever something
trainable lies below, gradients of weights for what is trained (adapters or matrices). Left out:
norms, activation functions, caps and multipliers, rotary positions, softmax, the gradients of
biases, norms and token and position tables (sums, no products), the loss and the optimiser.

Memory is what the backward pass keeps in PyTorch, part by part, read off transformers' modelling
code and autograd: a frozen matrix keeps nothing of its input, an adapted one keeps its input (in
fp32, the adapter's type; none for a frozen A) and A x, a trained one its input; a norm keeps its
input, a trained RMS norm also its answer before the weight; attention keeps queries, keys, values
and, eager, the full probabilities; the MLP keeps what its activation function and gate need. Bytes
per number: `width` for the base's dtype, 4 for what is trained.
"""

import operator
from dataclasses import dataclass
from typing import Literal

from airtune.errors import InputError
from airtune.workload.architecture import Architecture, Decoder
from airtune.workload.block import (
    Adaptation,
    GradientFlow,
    Linear,
    Norm,
    NormKind,
    NormSpan,
    Role,
    Widths,
    gradient_flow,
)


def require_count(field: str, value: int) -> None:
    """Refuse what is not a whole number of at least 1 (numpy's integers are whole numbers)."""
    try:
        whole = operator.index(value)
    except TypeError:
        whole = 0
    if whole < 1:
        raise InputError(field, value, "a whole number of at least 1")


@dataclass(frozen=True)
class Step:
    """`batch_size` sequences of `tokens` tokens each, padding included.

    `logit_positions` is how many positions of a sequence reach the LM head (None: all).
    `label_tokens` is that number for the whole batch, where sequences differ.
    """

    batch_size: int
    tokens: int
    logit_positions: int | None = None
    label_tokens: int | None = None

    def __post_init__(self) -> None:
        require_count("batch_size", self.batch_size)
        require_count("tokens", self.tokens)
        require_count("logit_positions", self.logits_per_sequence)
        if self.logits_per_sequence > self.tokens:
            raise InputError("logit_positions", self.logit_positions, f"at most {self.tokens}")
        if self.label_tokens is not None:
            require_count("label_tokens", self.label_tokens)
            if self.label_tokens > self.positions:
                raise InputError("label_tokens", self.label_tokens, f"at most {self.positions}")

    @property
    def logits_per_sequence(self) -> int:
        """Positions of a sequence for which logits are computed."""
        return self.tokens if self.logit_positions is None else self.logit_positions

    @property
    def positions(self) -> int:
        """Tokens of the whole batch."""
        return self.batch_size * self.tokens

    @property
    def logit_rows(self) -> int:
        """Positions of the whole batch for which logits are computed."""
        if self.label_tokens is not None:
            return self.label_tokens
        return self.batch_size * self.logits_per_sequence


@dataclass(frozen=True)
class Flops:
    """Operations of one part; `output_needs_gradient`: something trainable lies at or below it."""

    forward: int
    backward: int
    output_needs_gradient: bool


def linear_flops(
    linear: Linear,
    widths: Widths,
    positions: int,
    adaptation: Adaptation,
    input_needs_gradient: bool,
) -> tuple[int, int]:
    """Forward and backward operations of one matrix with its adapter, if it has one, for P rows.

    forward  = 2 P in out + 2 P r (in + out)
    backward = 2 P r out                                (of B)
             + 2 P r in                                 (of A, unless it is frozen)
             + 2 P r out                                (of A x, where A or x needs a gradient)
             + 2 P in out + 2 P r in                    (of x, where x needs a gradient)
             + 2 P in out                               (of the matrix, where it is trained itself)
    """
    read, write = linear.input_width(widths), linear.output_width(widths)
    rank = adaptation.of(linear)
    forward = 2 * positions * (read * write + rank * (read + write))
    trains_a = not adaptation.frozen_a
    inner = rank * write * (trains_a or input_needs_gradient)
    adapters = rank * write + trains_a * rank * read + inner
    backward = 2 * positions * (adapters + adaptation.whole * read * write)
    if input_needs_gradient:
        backward += 2 * positions * (read * write + rank * read)
    return forward, backward


def attention_flops(widths: Widths, step: Step, flow: GradientFlow) -> tuple[int, int]:
    """Scores q k^T and their product with v: 2 b t^2 d each, for b sequences, t tokens, d = query.

    Backward has one such product for each operand that needs a gradient: q, k, scores and v.
    """
    product = 2 * step.batch_size * step.tokens**2 * widths.query
    operands = (flow.query, flow.key, flow.scores, flow.value)
    return 2 * product, sum(operands) * product


def block_flops(
    architecture: Architecture, adaptation: Adaptation, step: Step, input_needs_gradient: bool
) -> Flops:
    """One decoder block. `input_needs_gradient`: something trainable lies below it."""
    flow = gradient_flow(architecture.structure, adaptation, input_needs_gradient)
    forward, backward = attention_flops(architecture.widths, step, flow)
    for linear in architecture.structure.linears:
        ahead, back = linear_flops(
            linear,
            architecture.widths,
            step.positions,
            adaptation,
            flow.input_of(linear.role),
        )
        forward, backward = forward + ahead, backward + back
    experts = _expert_flops(architecture, step)
    backward += experts * (flow.mlp_input + adaptation.whole)
    return Flops(forward + experts, backward, flow.output)


def _expert_flops(architecture: Architecture, step: Step) -> int:
    """One pass through router and experts; the gradients of their input, or of their matrices where
    they are trained, take as many operations each."""
    experts, widths = architecture.structure.experts, architecture.widths
    if experts is None:
        return 0
    return experts.flops(widths.hidden, widths.neurons, step.positions)


def with_recomputing(flops: Flops, checkpointing: bool) -> Flops:
    """A checkpointed block runs forward once more in its backward pass, if it has one."""
    if not (checkpointing and flops.output_needs_gradient):
        return flops
    return Flops(flops.forward, flops.backward + flops.forward, flops.output_needs_gradient)


def embedding_flops(architecture: Architecture, adaptation: Adaptation, step: Step) -> Flops:
    """Looking up tokens multiplies nothing, and neither does the gradient of the table; the
    projection that OPT-350m puts after it does."""
    linears = architecture.structure.input_linears
    return _chain(architecture, linears, adaptation, step, input_needs_gradient=adaptation.whole)


def head_flops(
    architecture: Architecture, adaptation: Adaptation, step: Step, input_needs_gradient: bool
) -> Flops:
    """The projection before the LM head, if any, and the LM head: 2 rows width vocabulary.

    Backward has as much for the head's input and, where the head is trained, for its matrix: a tied
    one, too, whose other gradient, that of the token table, multiplies nothing.
    """
    linears = architecture.structure.output_linears
    before = _chain(architecture, linears, adaptation, step, input_needs_gradient)
    logits = 2 * step.logit_rows * architecture.widths.embedding * architecture.vocab_size
    backward = before.backward + logits * (before.output_needs_gradient + adaptation.whole)
    return Flops(before.forward + logits, backward, before.output_needs_gradient)


def _chain(
    architecture: Architecture,
    linears: tuple[Linear, ...],
    adaptation: Adaptation,
    step: Step,
    input_needs_gradient: bool,
) -> Flops:
    """Matrices one after another."""
    forward = backward = 0
    needs = input_needs_gradient
    for linear in linears:
        ahead, back = linear_flops(linear, architecture.widths, step.positions, adaptation, needs)
        forward, backward = forward + ahead, backward + back
        needs = needs or adaptation.trains(linear)
    return Flops(forward, backward, needs)


Attention = Literal["sdpa", "eager"]
"""sdpa (transformers' default) keeps no score matrix; eager, all that Gemma 2 has, keeps all."""

ADAPTER_BYTES = 4
"""What is trained, its gradients and optimiser moments are fp32, whatever the base's dtype is."""

_ARRAYS_KEPT = {
    "gelu": 1,
    "gelu_pytorch_tanh": 1,
    "silu": 1,
    "swish": 1,
    "relu": 1,
    "quick_gelu": 2,
    "gelu_python": 3,
    "gelu_new": 4,
    "gelu_fast": 7,
}
"""Arrays of the MLP's width that autograd keeps for an activation function."""

OPTIMIZER_MOMENTS = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}
"""fp32 numbers that an optimiser holds per trained parameter."""


@dataclass(frozen=True)
class _Store:
    """What every count below shares: rows, bytes of the base's dtype, kind of attention, and
    whether every parameter is trained."""

    step: Step
    width: int
    attention: Attention
    whole: bool

    @property
    def rows(self) -> int:
        return self.step.positions


def block_stored_bytes(
    architecture: Architecture,
    adaptation: Adaptation,
    step: Step,
    input_needs_gradient: bool,
    dtype_bytes: int,
    attention: Attention = "sdpa",
) -> int:
    """Bytes that one block keeps between forward and backward."""
    structure = architecture.structure
    kind: Attention = "eager" if structure.eager_only else attention
    store = _Store(step, dtype_bytes, kind, adaptation.whole)
    flow = gradient_flow(structure, adaptation, input_needs_gradient)
    norms = sum(map(flow.input_of_norm, structure.norms))
    return (
        norms * _norm_bytes(structure.norm, architecture.hidden_size, 1, store)
        + _attention_bytes(architecture, flow, store)
        + _mlp_bytes(architecture, flow, store)
        + _adapter_input_bytes(architecture, adaptation, flow, store)
    )


def chain_stored_bytes(
    architecture: Architecture, linears: tuple[Linear, ...], adaptation: Adaptation, step: Step
) -> int:
    """Bytes that trained projections beside the blocks keep: their input, and A x."""
    widths = architecture.widths
    # A frozen A needs no input for its own gradient.
    numbers = sum(
        linear.input_width(widths) * (not adaptation.frozen_a) + adaptation.of(linear)
        for linear in linears
        if adaptation.trains(linear)
    )
    return ADAPTER_BYTES * step.positions * numbers


def head_stored_bytes(
    architecture: Architecture, adaptation: Adaptation, step: Step, dtype_bytes: int
) -> int:
    """Bytes that the norm after the last block keeps, a trained LM head of its input, and a cap on
    logits of what the tanh made of them."""
    head = ADAPTER_BYTES * step.logit_rows * architecture.widths.embedding * adaptation.whole
    if architecture.structure.logit_cap:
        head += dtype_bytes * step.logit_rows * architecture.vocab_size
    if not architecture.structure.final_norm:
        return head
    store = _Store(step, dtype_bytes, "sdpa", adaptation.whole)
    return head + _norm_bytes(architecture.structure.norm, architecture.hidden_size, 1, store)


def loss_bytes(architecture: Decoder, step: Step) -> int:
    """Peak bytes around the loss: fp32 log-probabilities and two fp32 gradients of their size.

    The logits themselves are freed before the backward pass, as a loss function that returns only
    the loss does; who holds on to them needs one more array in the base's dtype.
    """
    return 3 * 4 * step.logit_rows * architecture.vocab_size


def _norm_bytes(norm: Norm, elements: int, groups: int, store: _Store) -> int:
    """A norm over `elements` numbers per row in `groups` groups keeps input and statistics.

    transformers multiplies an RMS norm's answer by the weight in an operation of its own, which
    keeps that answer for the weight's gradient.
    """
    if norm.kind is NormKind.RMS:
        answer = store.width * elements * store.whole
        return store.rows * (4 * (elements + groups) + answer)
    return store.width * store.rows * (elements + 2 * groups)


def _attention_bytes(architecture: Architecture, flow: GradientFlow, store: _Store) -> int:
    widths, structure = architecture.widths, architecture.structure
    kept = 0
    if structure.query_key_norm is not NormSpan.NOTHING:
        each = structure.query_key_norm is NormSpan.HEAD
        groups = (widths.heads, widths.kv_heads) if each else (1, 1)
        kept += flow.query * _norm_bytes(structure.norm, widths.query, groups[0], store)
        kept += flow.key * _norm_bytes(structure.norm, widths.key_value, groups[1], store)
    if not flow.mixed:
        return kept
    if store.attention == "sdpa":
        numbers = 2 * widths.query + 2 * widths.key_value
        if structure.copies_heads and structure.fused:
            # The values lie in the fused answer, whose queries and keys were copied out of it.
            numbers += widths.query + widths.key_value
        return kept + store.rows * (store.width * numbers + 4 * widths.heads)
    # Eager repeats keys and values to the query heads before it multiplies them.
    operands = (flow.key, flow.query, flow.scores)
    probabilities = store.rows * store.step.tokens * widths.heads
    in_fp32 = structure.softmax_in_fp32 and store.width < 4
    kept += store.rows * store.width * widths.query * sum(operands)
    kept += probabilities * 4 * (in_fp32 and flow.scores)
    kept += probabilities * store.width * (structure.score_cap and flow.scores)
    return kept + probabilities * store.width * (flow.value or (flow.scores and not in_fp32))


def _mlp_bytes(architecture: Architecture, flow: GradientFlow, store: _Store) -> int:
    activation = architecture.structure.activation
    if activation not in _ARRAYS_KEPT:
        raise InputError("config activation", activation, f"one of {', '.join(_ARRAYS_KEPT)}")
    arrays, experts = _ARRAYS_KEPT[activation], architecture.structure.experts
    if experts is not None:
        shape = architecture.widths.hidden, architecture.widths.neurons, store.rows
        return flow.inside * experts.stored_bytes(*shape, store.width, arrays, store.whole)
    if architecture.structure.gated:
        # gate * up keeps each factor for the other's gradient.
        kept = flow.gate * (arrays + 1) + flow.up * 1
    else:
        kept = flow.up * arrays
    return store.rows * architecture.widths.neurons * store.width * kept


def _adapter_input_bytes(
    architecture: Architecture, adaptation: Adaptation, flow: GradientFlow, store: _Store
) -> int:
    """Inputs of trained matrices, and A x. A base below fp32 is cast once per adapted matrix."""
    adapted = [linear for linear in architecture.structure.linears if adaptation.trains(linear)]
    kept = sum(map(adaptation.of, adapted)) * ADAPTER_BYTES * store.rows
    if adaptation.frozen_a:
        return kept
    widths = architecture.widths
    if store.width < ADAPTER_BYTES:
        inputs = sum(linear.input_width(widths) for linear in adapted)
        return kept + inputs * ADAPTER_BYTES * store.rows
    sources = {_source(linear.role, architecture) for linear in adapted}
    structure = architecture.structure
    # sdpa keeps its answer and ReLU its output anyway, unless a copy lies between.
    shared = {
        "mixed": store.attention == "sdpa" and flow.mixed and not structure.copies_heads,
        "inside": structure.activation == "relu" and flow.inside,
    }
    sizes = {"mixed": widths.query, "inside": widths.neurons}
    numbers = sum(
        sizes.get(source, widths.hidden) for source in sources if not shared.get(source, False)
    )
    return kept + numbers * ADAPTER_BYTES * store.rows


def _source(role: Role, architecture: Architecture) -> str:
    """Which tensor a matrix reads: matrices that read the same one share what is kept."""
    if role is Role.OUTPUT:
        return "mixed"
    if role is Role.DOWN:
        return "inside"
    if role in (Role.GATE, Role.UP, Role.FUSED_GATE_UP) and not architecture.structure.parallel:
        return "second norm"
    return "first norm"
