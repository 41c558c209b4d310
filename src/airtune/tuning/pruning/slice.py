"""Which attention units and MLP neurons a pruned client keeps, and where that cuts its tensors.

Attention units form pools: one pool of key/value groups, or, with fewer than four KV heads, a
pool of query heads for every group, so that each group loses the same number. The share removed is
the same in every block; `workload/architecture.py` counts it, and this file cuts exactly that.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.workload.architecture import (
    Architecture,
    attention_units,
    pruned,
    prunes_groups,
    removed_units,
)
from airtune.workload.block import Linear, Role, Widths
from airtune.workload.decisions import emptied

_PEFT_PREFIX = "base_model.model."
_FACTORS = (".lora_A.weight", ".lora_B.weight")
_READS_HEADS, _READS_NEURONS = Role.OUTPUT, Role.DOWN


@dataclass(frozen=True)
class UnitLayout:
    """Attention units as [pool, unit]; unit (p, u) owns `heads_per_unit` adjoining query heads."""

    pools: int
    units: int
    heads_per_unit: int

    @classmethod
    def of(cls, widths: Widths) -> "UnitLayout":
        """The layout that these widths imply."""
        units = attention_units(widths)
        pools = 1 if prunes_groups(widths) else widths.kv_heads
        return cls(pools, units, widths.heads // (pools * units))


@dataclass(frozen=True)
class KeptBlock:
    """What one block keeps: ascending indices of query heads, key/value heads and neurons."""

    query_heads: tuple[int, ...]
    key_value_heads: tuple[int, ...]
    neurons: tuple[int, ...]


@dataclass(frozen=True)
class BlockScores:
    """Importance of one block's units: `attention` [pool, unit] and `neurons` [neuron]."""

    attention: Tensor
    neurons: Tensor


@dataclass(frozen=True)
class Slice:
    """What a pruned client keeps of a whole (unpruned) architecture, block by block."""

    architecture: Architecture
    blocks: tuple[KeptBlock, ...]


@dataclass(frozen=True)
class Cut:
    """Kept rows and columns of a matrix, ascending; None keeps all of them."""

    rows: Tensor | None = None
    columns: Tensor | None = None


Cuts: TypeAlias = Mapping[str, Cut]
"""Tensor name of an adapter -> what is kept of it."""


def choose_slice(
    architecture: Architecture, scores: Sequence[BlockScores], pruning_rate: float
) -> Slice:
    """Keep the most important units of every block; of equals, those with the lower index.

    Scores are compared as fp32: made in fp64, they are then the same on every machine.
    """
    widths = architecture.widths
    layout = UnitLayout.of(widths)
    attention = layout.units - removed_units(pruning_rate, layout.units)
    neurons = widths.neurons - removed_units(pruning_rate, widths.neurons)
    return Slice(
        architecture,
        tuple(
            _kept_block(widths, layout, _top(block.attention, attention), block.neurons, neurons)
            for block in scores
        ),
    )


def removed_share(part: Slice, scores: Sequence[BlockScores]) -> float:
    """Share of the total score of all units that the slice leaves out, over all blocks."""
    layout = UnitLayout.of(part.architecture.widths)
    kept = total = 0.0
    for block, values in zip(part.blocks, scores, strict=True):
        units = sorted({head // layout.heads_per_unit for head in block.query_heads})
        kept += float(values.attention.double().reshape(-1)[units].sum())
        kept += float(values.neurons.double()[list(block.neurons)].sum())
        total += float(values.attention.double().sum() + values.neurons.double().sum())
    return 1.0 - kept / total if total > 0 else 0.0


def whole_slice(architecture: Architecture) -> Slice:
    """Everything kept, as at rate 0."""
    widths = architecture.widths
    everything = KeptBlock(
        tuple(range(widths.heads)), tuple(range(widths.kv_heads)), tuple(range(widths.neurons))
    )
    return Slice(architecture, (everything,) * architecture.block_count)


def _kept_block(
    widths: Widths, layout: UnitLayout, units: Tensor, neuron_scores: Tensor, neurons: int
) -> KeptBlock:
    pools = torch.arange(layout.pools)[:, None] * layout.units
    flat = (units + pools).reshape(-1)
    whole_groups = prunes_groups(widths)
    return KeptBlock(
        query_heads=tuple(_spread(flat, layout.heads_per_unit).tolist()),
        key_value_heads=tuple(flat.tolist() if whole_groups else range(widths.kv_heads)),
        neurons=tuple(_top(neuron_scores[None], neurons)[0].tolist()),
    )


def _top(scores: Tensor, count: int) -> Tensor:
    """Ascending indices [pool, count] of the highest scores [pool, unit]."""
    order = torch.sort(scores.to(torch.float32), dim=1, descending=True, stable=True).indices
    return order[:, :count].sort(dim=1).values


def _spread(indices: Tensor, width: int) -> Tensor:
    """Every index as the `width` adjoining coordinates that it owns."""
    return (indices[:, None] * width + torch.arange(width)).reshape(-1)


def matrix_cut(linear: Linear, kept: KeptBlock, widths: Widths) -> Cut:
    """Kept rows (outputs) and columns (inputs) of one block matrix, seen as (out, in)."""
    heads = torch.tensor(kept.query_heads)
    query = _spread(heads, widths.head_dim)
    key_value = _spread(torch.tensor(kept.key_value_heads), widths.head_dim)
    neurons = torch.tensor(kept.neurons)
    if linear.role is Role.FUSED_QKV:
        # A head is three groups of rows: queries, then keys, then values of all heads.
        key, value = key_value + widths.query, key_value + widths.query + widths.key_value
        return Cut(rows=torch.cat([query, key, value]))
    if linear.role is Role.FUSED_GATE_UP:
        return Cut(rows=torch.cat([neurons, neurons + widths.neurons]))
    rows = {
        Role.QUERY: query,
        Role.KEY: key_value,
        Role.VALUE: key_value,
        Role.GATE: neurons,
        Role.UP: neurons,
    }
    columns = {_READS_HEADS: query, _READS_NEURONS: neurons}
    return Cut(rows.get(linear.role), columns.get(linear.role))


def adapter_cuts(part: Slice, names: Iterable[str]) -> dict[str, Cut]:
    """What is kept of every adapter tensor: A loses input columns, B output rows.

    So A of query/key/value/gate/up and B of output/down never shrink.
    """
    cuts: dict[str, Cut] = {}
    matrices: dict[tuple[int, str], Cut] = {}
    for name in names:
        place = _place(name, part.architecture)
        if place is None:
            cuts[name] = Cut()
            continue
        block, linear = place
        key = (block, linear.name)
        if key not in matrices:
            widths = part.architecture.widths
            matrices[key] = matrix_cut(linear, part.blocks[block], widths)
        whole = matrices[key]
        cuts[name] = Cut(columns=whole.columns) if _is_a(name) else Cut(rows=whole.rows)
    return cuts


def kept_coordinates(
    architecture: Architecture, shapes: Mapping[str, tuple[int, ...]], pruning_rate: float
) -> int:
    """How many numbers of an adapter with these (whole) shapes a pruned client trains and sends."""
    return _kept_coordinates(architecture, tuple(shapes.items()), pruning_rate)


def fixed_coordinates(architecture: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many of them no pruning rate removes: the limit of nothing kept in the blocks."""
    return _kept_coordinates(architecture, tuple(shapes.items()), None)


@lru_cache(maxsize=4096)  # planners need it for every client of a cohort
def _kept_coordinates(
    architecture: Architecture,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    pruning_rate: float | None,
) -> int:
    narrow = emptied(architecture) if pruning_rate is None else pruned(architecture, pruning_rate)
    total = 0
    for name, shape in shapes:
        rows, columns = shape
        place = _place(name, architecture)
        if place is not None and _is_a(name):
            columns = place[1].input_width(narrow.widths)
        elif place is not None:
            rows = place[1].output_width(narrow.widths)
        total += rows * columns
    return total


def _is_a(name: str) -> bool:
    return name.endswith(_FACTORS[0])


def _place(name: str, architecture: Architecture) -> tuple[int, Linear] | None:
    """Block and matrix of an adapter tensor; None for the projections beside the blocks."""
    path = name.removeprefix(_PEFT_PREFIX)
    for suffix in _FACTORS:
        path = path.removesuffix(suffix)
    structure = architecture.structure
    if path.startswith(f"{structure.block_path}."):
        number, _, rest = path.removeprefix(f"{structure.block_path}.").partition(".")
        for linear in structure.linears:
            if linear.name == rest:
                return int(number), linear
    elif path in {f"{structure.around_path}.{x.name}" for x in structure.all_linears}:
        return None
    raise InputError("adapter", name, f"a LoRA factor of a linear layer of {architecture.family}")


def take(tensor: Tensor, cut: Cut) -> Tensor:
    """The kept part of a matrix (or vector of rows): a view where it is one piece, else a copy."""
    for dimension, kept in enumerate((cut.rows, cut.columns)):
        if kept is not None:
            tensor = _select(tensor, dimension, kept)
    return tensor


def _select(tensor: Tensor, dimension: int, kept: Tensor) -> Tensor:
    first, count = int(kept[0]), len(kept)
    if int(kept[-1]) - first == count - 1:
        return tensor.narrow(dimension, first, count)
    return tensor.index_select(dimension, kept.to(tensor.device))


def gather(tensors: Mapping[str, Tensor], cuts: Cuts) -> dict[str, Tensor]:
    """The kept part of every tensor."""
    return {name: take(tensor, cuts[name]) for name, tensor in tensors.items()}


def scatter(
    whole: Mapping[str, Tensor], cuts: Cuts, parts: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Copies of whole tensors with the kept part replaced; every other coordinate stays."""
    merged = {name: tensor.clone() for name, tensor in whole.items()}
    for name, tensor in merged.items():
        cut = cuts[name]
        if cut.rows is not None:
            tensor[cut.rows] = parts[name]
        elif cut.columns is not None:
            tensor[:, cut.columns] = parts[name]
        else:
            tensor.copy_(parts[name])
    return merged


def masks(shapes: Mapping[str, tuple[int, ...]], cuts: Cuts) -> dict[str, Tensor]:
    """True where a coordinate is kept, in whole shapes (expanded views of a line of bools)."""
    result: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        mask = torch.ones((1, 1), dtype=torch.bool)
        for dimension, kept in enumerate((cuts[name].rows, cuts[name].columns)):
            if kept is not None:
                line = torch.zeros(shape[dimension], dtype=torch.bool)
                line[kept] = True
                mask = mask & (line[:, None] if dimension == 0 else line[None])
        result[name] = mask.expand(shape)
    return result
