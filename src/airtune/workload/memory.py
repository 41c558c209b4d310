"""Memory of a training step in PyTorch: what the backward pass keeps, part by part.

Read off transformers' modelling code and autograd: a frozen matrix keeps nothing of its input, an
adapted one keeps its input (in fp32, the adapter's type; none for a frozen A) and A x, a trained
one its input; a norm keeps its input, a trained RMS norm also its answer before the weight;
attention keeps queries, keys, values and, eager, the full probabilities; the MLP keeps what its
activation function and gate need. Bytes per number: `width` for the base's dtype, 4 for what is
trained.
"""

from dataclasses import dataclass
from typing import Literal

from airtune.errors import InputError
from airtune.workload.architecture import Architecture
from airtune.workload.block import Linear, Norm, NormKind, Role
from airtune.workload.gradient_flow import Adaptation, GradientFlow, gradient_flow
from airtune.workload.step import Step

Attention = Literal["sdpa", "eager"]
"""sdpa (transformers' default) keeps no score matrix; eager keeps all of it."""

ADAPTER_BYTES = 4
"""What is trained, its gradients and optimiser moments are fp32, whatever the base's dtype is."""

_ARRAYS_KEPT = {
    "gelu": 1, "gelu_pytorch_tanh": 1, "silu": 1, "swish": 1, "relu": 1,
    "quick_gelu": 2, "gelu_python": 3, "gelu_new": 4, "gelu_fast": 7,
}  # fmt: skip
"""Arrays of the MLP's width that autograd keeps for an activation function."""

OPTIMIZER_MOMENTS = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}
"""fp32 numbers that an optimiser holds per trained parameter."""


@dataclass(frozen=True)
class _Store:
    """What every count below shares: rows, bytes of the base's dtype, kind of attention, and
    whether norms are trained."""

    step: Step
    width: int
    attention: Attention
    trained_norms: bool

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
    store = _Store(step, dtype_bytes, attention, adaptation.whole)
    flow = gradient_flow(architecture.structure, adaptation, input_needs_gradient)
    structure = architecture.structure
    normed = (flow.middle, flow.output) if structure.norm_after else (flow.normed, flow.middle)
    norms = normed[: structure.norms_per_block]
    return (
        sum(norms) * _norm_bytes(structure.norm, architecture.hidden_size, 1, store)
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
    """Bytes that the norm after the last block keeps, and a trained LM head of its input."""
    head = ADAPTER_BYTES * step.logit_rows * architecture.widths.embedding * adaptation.whole
    if not architecture.structure.final_norm:
        return head
    store = _Store(step, dtype_bytes, "sdpa", adaptation.whole)
    return head + _norm_bytes(architecture.structure.norm, architecture.hidden_size, 1, store)


def loss_bytes(architecture: Architecture, step: Step) -> int:
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
        answer = store.width * elements * store.trained_norms
        return store.rows * (4 * (elements + groups) + answer)
    return store.width * store.rows * (elements + 2 * groups)


def _attention_bytes(architecture: Architecture, flow: GradientFlow, store: _Store) -> int:
    widths, structure = architecture.widths, architecture.structure
    kept = 0
    if structure.query_key_norm:
        kept += flow.query * _norm_bytes(structure.norm, widths.query, widths.heads, store)
        kept += flow.key * _norm_bytes(structure.norm, widths.key_value, widths.kv_heads, store)
    if not flow.mixed:
        return kept
    if store.attention == "sdpa":
        numbers = 2 * widths.query + 2 * widths.key_value
        return kept + store.rows * (store.width * numbers + 4 * widths.heads)
    # Eager repeats keys and values to the query heads before it multiplies them.
    operands = (flow.key, flow.query, flow.scores)
    probabilities = store.rows * store.step.tokens * widths.heads
    in_fp32 = structure.softmax_in_fp32 and store.width < 4
    kept += store.rows * store.width * widths.query * sum(operands)
    kept += probabilities * 4 * (in_fp32 and flow.scores)
    return kept + probabilities * store.width * (flow.value or (flow.scores and not in_fp32))


def _mlp_bytes(architecture: Architecture, flow: GradientFlow, store: _Store) -> int:
    activation = architecture.structure.activation
    if activation not in _ARRAYS_KEPT:
        raise InputError("config activation", activation, f"one of {', '.join(_ARRAYS_KEPT)}")
    arrays = _ARRAYS_KEPT[activation]
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
        "mixed": store.attention == "sdpa" and flow.mixed and not structure.partial_rotary,
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
    if role in (Role.GATE, Role.UP) and not architecture.structure.parallel:
        return "second norm"
    return "first norm"
