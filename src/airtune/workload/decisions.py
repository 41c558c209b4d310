"""Work and bits as functions of a decision: the pruning rate, or the split point.

Compute and payload are affine functions of the kept share 1 - pruning_rate, as JCPBA needs them.
Every count of a block is linear in the kept attention units and in the kept MLP neurons, so before
rounding `fixed + (1 - pruning_rate) prunable` is exact: `fixed` is counted with nothing kept and
`fixed + prunable` with all kept. Removed units are rounded DOWN, so the real count lies above the
line, by less than one attention unit and one neuron per block.

Split points, as SflLLM weighs them, have work and bits on each side of the cut, per sample.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from airtune.errors import InputError
from airtune.workload.adapter_shape import ALL_LINEAR, AdapterShape, Trained, adapter_parameters
from airtune.workload.architecture import (
    Architecture,
    Decoder,
    attention_units,
    pruned,
    require_prunable,
    with_units,
)
from airtune.workload.counted import CountedArchitecture
from airtune.workload.payload import dtype_bits, update_bits
from airtune.workload.precision import DEFAULT_PRECISION, Precision
from airtune.workload.step import Step
from airtune.workload.transformer import (
    Workload,
    activation_bits,
    check_step,
    split_workload,
    total_flops,
    workload,
)


def training_flops(
    architecture: Decoder,
    adapter: Trained,
    step: Step,
    pruning_rate: float = 0.0,
    precision: Precision = DEFAULT_PRECISION,
) -> int:
    """`workload(...).flops`, in closed form without the bookkeeping per part. Raises the same."""
    if isinstance(architecture, CountedArchitecture):
        return workload(architecture, adapter, step, pruning_rate, precision).flops
    check_step(architecture, adapter, step, pruning_rate, precision)
    narrow, adaptation = pruned(architecture, pruning_rate), adapter.adaptation(architecture)
    return total_flops(narrow, adaptation, step, precision.checkpointing)


@dataclass(frozen=True)
class Affine:
    """`fixed + (1 - pruning_rate) prunable`, in the unit of what was counted."""

    fixed: int
    prunable: int

    def at(self, pruning_rate: float) -> float:
        """The value before units are rounded."""
        return self.fixed + (1.0 - pruning_rate) * self.prunable


def affine_flops(
    architecture: Decoder, adapter: Trained, step: Step, checkpointing: bool = False
) -> Affine:
    """FLOPs of one training step, forward and backward: a0 + (1 - rho) a1."""
    whole = require_prunable(architecture)
    adaptation = adapter.adaptation(whole)
    fixed = total_flops(emptied(whole), adaptation, step, checkpointing)
    return Affine(fixed, total_flops(whole, adaptation, step, checkpointing) - fixed)


def affine_update_bits(architecture: Decoder, adapter: Trained, dtype: str = "fp32") -> Affine:
    """Bits of the dense update: s0 + (1 - rho) s1. The frame's header is part of s0.

    A smaller frame may have a header shorter by 8 bytes; that is the only other departure.
    """
    whole = adapter_parameters(architecture, adapter)
    narrow = emptied(require_prunable(architecture))
    prunable = whole - adapter_parameters(narrow, adapter)
    bits = dtype_bits(dtype) * prunable
    return Affine(update_bits(architecture, adapter, dtype) - bits, bits)


def flops_excess(architecture: Decoder, adapter: Trained, step: Step, pruning_rate: float) -> float:
    """How far rounding lifts the real FLOPs at this rate above the affine form [FLOP]."""
    real = workload(architecture, adapter, step, pruning_rate).flops
    return real - affine_flops(architecture, adapter, step).at(pruning_rate)


def update_bits_excess(
    architecture: Decoder, adapter: Trained, pruning_rate: float, dtype: str = "fp32"
) -> float:
    """How far rounding lifts the real payload at this rate above the affine form [bit]."""
    real = update_bits(architecture, adapter, dtype, pruning_rate)
    return real - affine_update_bits(architecture, adapter, dtype).at(pruning_rate)


def distinct_rates(architecture: Decoder) -> list[float]:
    """The rates at which one more unit or neuron goes, ascending from 0."""
    widths = require_prunable(architecture).widths
    units, neurons = attention_units(widths), widths.neurons
    return sorted({k / units for k in range(units)} | {k / neurons for k in range(neurons)})


def rate_that_fits(
    architecture: Decoder,
    adapter: Trained,
    step: Step,
    memory_bytes: float,
    precision: Precision = DEFAULT_PRECISION,
) -> float:
    """The least pruning rate whose peak memory is at most `memory_bytes`.

    Memory falls as the rate rises, so bisection over the distinct rates is exact. Raises InputError
    where even the highest rate needs more.
    """

    def surplus(rate: float) -> float:
        return memory_bytes - workload(architecture, adapter, step, rate, precision).memory_bytes

    rates = distinct_rates(architecture)
    index = bisect_left(rates, 0.0, key=surplus)
    if index == len(rates):
        least = memory_bytes - surplus(rates[-1])
        raise InputError(
            "memory_bytes",
            memory_bytes,
            f"at least {least:.0f}, what the model needs at the highest pruning rate",
            "use a smaller batch, fewer tokens, a smaller model or a split",
        )
    return rates[index]


def emptied(architecture: Architecture) -> Architecture:
    """The limit that no real slice reaches: no attention unit and no neuron kept."""
    require_prunable(architecture)
    return architecture.with_widths(with_units(architecture.widths, units=0, neurons=0))


@dataclass(frozen=True)
class SplitWork:
    """One split point and rank, with the keys of a problem file; counts are per sample.

    `activation_bits` go up and `gradient_bits` come back at the cut; `adapter_bits` is the client
    half's whole update. The LM head's work is on the server's side.
    """

    split_point: int
    rank: int
    client_forward_flops: int
    client_backward_flops: int
    server_forward_flops: int
    server_backward_flops: int
    activation_bits: int
    gradient_bits: int
    adapter_bits: int

    def row(self, rounds: float) -> dict[str, float]:
        """The candidate as a problem file lists it, with its rounds to the target."""
        return {**asdict(self), "rounds": rounds}


@dataclass(frozen=True)
class SplitFlops:
    """Operations of one step on each side of the cut; the LM head apart, since labels decide where
    it runs. Prefix sums over the parts of a whole model's `workload`."""

    client_forward: float
    client_backward: float
    server_forward: float
    server_backward: float
    head_forward: float
    head_backward: float

    def with_logits(self, single: "SplitFlops", step: Step) -> "SplitFlops":
        """The same step with logits at `step.logit_rows` positions, of which the head's work is a
        linear function; `single` has one, this has all."""
        share = (step.logit_rows - 1) / max(step.positions - 1, 1)
        ahead, back = single.head_forward, single.head_backward
        return SplitFlops(
            self.client_forward,
            self.client_backward,
            self.server_forward,
            self.server_backward,
            ahead + share * (self.head_forward - ahead),
            back + share * (self.head_backward - back),
        )

    @classmethod
    def of(cls, whole: Workload, split_point: int) -> "SplitFlops":
        """Of a model cut after `split_point` blocks; parts are embedding, blocks, head."""
        client, (*blocks, head) = whole.parts[: split_point + 1], whole.parts[split_point + 1 :]
        return cls(
            float(sum(part.forward_flops for part in client)),
            float(sum(part.backward_flops for part in client)),
            float(sum(part.forward_flops for part in blocks)),
            float(sum(part.backward_flops for part in blocks)),
            float(head.forward_flops),
            float(head.backward_flops),
        )


def split_candidates(
    architecture: Decoder,
    tokens: int,
    ranks: Iterable[int],
    split_points: Iterable[int] | None = None,
    target_modules: str | tuple[str, ...] = ALL_LINEAR,
    activation_dtype: str = "fp32",
    update_dtype: str = "fp32",
) -> list[SplitWork]:
    """Every pair of split point (default: all, 1 to blocks - 1) and rank, for samples of `tokens`.

    Raises InputError for a split point, rank or target that the model does not have.
    """
    points = range(1, architecture.block_count) if split_points is None else tuple(split_points)
    adapters = [AdapterShape(rank, target_modules) for rank in ranks]
    return [
        _candidate(architecture, adapter, tokens, point, activation_dtype, update_dtype)
        for point in points
        for adapter in adapters
    ]


def _candidate(
    architecture: Decoder,
    adapter: AdapterShape,
    tokens: int,
    split_point: int,
    activation_dtype: str,
    update_dtype: str,
) -> SplitWork:
    step = Step(batch_size=1, tokens=tokens)
    client, server = split_workload(architecture, adapter, step, split_point)
    cut_bits = activation_bits(architecture, tokens, activation_dtype)
    return SplitWork(
        split_point=split_point,
        rank=adapter.rank,
        client_forward_flops=client.forward_flops,
        client_backward_flops=client.backward_flops,
        server_forward_flops=server.forward_flops,
        server_backward_flops=server.backward_flops,
        activation_bits=cut_bits,
        gradient_bits=cut_bits,
        adapter_bits=update_bits(architecture, adapter, update_dtype, blocks=range(split_point)),
    )
