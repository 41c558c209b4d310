"""What a pruning rate removes: attention units and MLP neurons, the same share in every block.

Attention units are key/value groups (a KV head with its query heads); with fewer than four KV
heads they are query heads, the same number from every group. The residual width stays. Of `units`
units, floor(rate x units) go and at least one stays.
"""

from dataclasses import replace
from math import floor

from airtune.errors import InputError
from airtune.workload.architecture import Architecture
from airtune.workload.block import Widths

FEWEST_GROUPS = 4
"""Below this many KV heads, whole groups would be too coarse a unit."""

# A planner works with rates k / units; without this slack floor((k / units) x units) loses one.
_ROUNDING_SLACK = 1e-9


def removed_units(pruning_rate: float, units: int) -> int:
    """How many of `units` equal units a pruning rate removes.

    Raises InputError unless 0 <= pruning_rate < 1.
    """
    if not 0.0 <= pruning_rate < 1.0:
        raise InputError("pruning_rate", pruning_rate, "at least 0 and less than 1")
    return min(floor(pruning_rate * units + _ROUNDING_SLACK), units - 1)


def prunes_groups(widths: Widths) -> bool:
    """Whether attention units are whole KV groups, not query heads inside each group."""
    return widths.kv_heads >= FEWEST_GROUPS


def attention_units(widths: Widths) -> int:
    """KV groups, or query heads per group where there are fewer than four groups."""
    return widths.kv_heads if prunes_groups(widths) else widths.heads // widths.kv_heads


def with_units(widths: Widths, units: int, neurons: int) -> Widths:
    """Widths that keep this many attention units (zero allowed, as a limit) and MLP neurons."""
    per_group = widths.heads // widths.kv_heads
    if prunes_groups(widths):
        return replace(widths, heads=units * per_group, kv_heads=units, neurons=neurons)
    return replace(widths, heads=units * widths.kv_heads, neurons=neurons)


def pruned_widths(widths: Widths, pruning_rate: float) -> Widths:
    """The widths of every block after pruning, which is exactly what the tuner slices out."""
    units = attention_units(widths)
    return with_units(
        widths,
        units - removed_units(pruning_rate, units),
        widths.neurons - removed_units(pruning_rate, widths.neurons),
    )


def pruned(architecture: Architecture, pruning_rate: float) -> Architecture:
    """The architecture with every block pruned at this rate."""
    return architecture.with_widths(pruned_widths(architecture.widths, pruning_rate))
