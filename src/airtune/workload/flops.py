"""Floating point operations of a training step, counted as torch's FlopCounterMode counts them.

A product of (m x k) and (k x n) is 2 m k n operations. Attention multiplies full score matrices,
as eager attention does, without halving for causality. Backward: gradients of activations wherever
something trainable lies below, gradients of weights for what is trained (adapters or matrices).
Left out: norms, activation functions, rotary positions, softmax, the gradients of biases, norms and
token and position tables (sums, no products), the loss and the optimiser.
"""

from dataclasses import dataclass

from airtune.workload.architecture import Architecture
from airtune.workload.block import Linear, Widths
from airtune.workload.gradient_flow import Adaptation, GradientFlow, gradient_flow
from airtune.workload.step import Step


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
    return Flops(forward, backward, flow.output)


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
