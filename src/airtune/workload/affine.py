"""Compute and payload as affine functions of the kept share 1 - pruning_rate, as JCPBA needs them.

Every count of a block is linear in the kept attention units and in the kept MLP neurons, so before
rounding `fixed + (1 - pruning_rate) prunable` is exact: `fixed` is counted with nothing kept and
`fixed + prunable` with all kept. Removed units are rounded DOWN, so the real count lies above the
line, by less than one attention unit and one neuron per block.
"""

from bisect import bisect_left
from dataclasses import dataclass

from airtune.errors import InputError
from airtune.workload.adapter_shape import Trained, adapter_parameters
from airtune.workload.architecture import Architecture, attention_units, with_units
from airtune.workload.payload import dtype_bits, update_bits
from airtune.workload.step import Step
from airtune.workload.transformer import DEFAULT_PRECISION, Precision, total_flops, workload


@dataclass(frozen=True)
class Affine:
    """`fixed + (1 - pruning_rate) prunable`, in the unit of what was counted."""

    fixed: int
    prunable: int

    def at(self, pruning_rate: float) -> float:
        """The value before units are rounded."""
        return self.fixed + (1.0 - pruning_rate) * self.prunable


def affine_flops(architecture: Architecture, adapter: Trained, step: Step) -> Affine:
    """FLOPs of one training step, forward and backward: a0 + (1 - rho) a1."""
    adaptation = adapter.adaptation(architecture)
    fixed = total_flops(emptied(architecture), adaptation, step)
    return Affine(fixed, total_flops(architecture, adaptation, step) - fixed)


def affine_update_bits(architecture: Architecture, adapter: Trained, dtype: str = "fp32") -> Affine:
    """Bits of the dense update: s0 + (1 - rho) s1. The frame's header is part of s0.

    A smaller frame may have a header shorter by 8 bytes; that is the only other departure.
    """
    whole = adapter_parameters(architecture, adapter)
    prunable = whole - adapter_parameters(emptied(architecture), adapter)
    bits = dtype_bits(dtype) * prunable
    return Affine(update_bits(architecture, adapter, dtype) - bits, bits)


def flops_excess(
    architecture: Architecture, adapter: Trained, step: Step, pruning_rate: float
) -> float:
    """How far rounding lifts the real FLOPs at this rate above the affine form [FLOP]."""
    real = workload(architecture, adapter, step, pruning_rate).flops
    return real - affine_flops(architecture, adapter, step).at(pruning_rate)


def update_bits_excess(
    architecture: Architecture, adapter: Trained, pruning_rate: float, dtype: str = "fp32"
) -> float:
    """How far rounding lifts the real payload at this rate above the affine form [bit]."""
    real = update_bits(architecture, adapter, dtype, pruning_rate)
    return real - affine_update_bits(architecture, adapter, dtype).at(pruning_rate)


def distinct_rates(architecture: Architecture) -> list[float]:
    """The rates at which one more unit or neuron goes, ascending from 0."""
    widths = architecture.widths
    units, neurons = attention_units(widths), widths.neurons
    return sorted({k / units for k in range(units)} | {k / neurons for k in range(neurons)})


def rate_that_fits(
    architecture: Architecture,
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
    return architecture.with_widths(with_units(architecture.widths, units=0, neurons=0))
