"""What is trained: LoRA on some matrices, checked against an architecture, or every parameter.

An adapted matrix W (out x in) gains A (rank x in) and B (out x rank); see Hu et al., LoRA,
arXiv 2106.09685, section 4.1.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias

from airtune.errors import InputError
from airtune.suggest import suggest
from airtune.workload.architecture import Architecture, Decoder
from airtune.workload.block import Adaptation, Linear, Matrix, Role
from airtune.workload.counted import CountedArchitecture
from airtune.workload.step import require_count

ALL_LINEAR = "all-linear"
"""PEFT's word for every linear layer but the LM head."""


@dataclass(frozen=True)
class AdapterShape:
    """Rank and target modules, named as PEFT names them.

    A name stands for every matrix whose dotted path in the model ends with it: `c_proj` means both
    of GPT-2's, `mlp.c_proj` one of every block, and `transformer.h.0.mlp.c_proj` one alone.
    `rank_pattern` gives matrices that end with a name another rank than `rank`, the first that
    fits; no matrix has more than `most`. `frozen_a`: A stays as it was
    drawn, B alone is trained.
    """

    rank: int
    target_modules: str | tuple[str, ...] = ALL_LINEAR
    rank_pattern: tuple[tuple[str, int], ...] = ()
    most: int | None = None
    frozen_a: bool = False

    def __post_init__(self) -> None:
        require_count("adapter.rank", self.rank)
        for name, rank in self.rank_pattern:
            require_count(f"adapter.rank_pattern.{name}", rank)
        targets = self.target_modules
        if isinstance(targets, str) and targets != ALL_LINEAR:
            raise InputError(
                "adapter.target_modules", targets, f"{ALL_LINEAR} or a list of module names"
            )
        if not targets:
            raise InputError("adapter.target_modules", "empty", "at least one module name")

    @property
    def highest_rank(self) -> int:
        """Of any matrix that the rank and its pattern name."""
        return max(self.rank, *(rank for _, rank in self.rank_pattern), 1)

    def at_most(self, rank: int) -> "AdapterShape":
        """The first ranks of every matrix, as HetLoRA's weaker clients train them."""
        return self if rank >= self.highest_rank else replace(self, most=rank)

    def ranks(self, architecture: Decoder) -> Mapping[str, int]:
        """Dotted path in the model of every adapted matrix, in module order -> its rank.

        Raises InputError for a name the family does not have, with the closest one that it has.
        """
        return _ranks(self, architecture)

    def adaptation(self, architecture: Decoder) -> Adaptation:
        """The adapted matrices and their ranks, checked against the UNPRUNED model.

        Raises InputError also for a rank above the width of an adapted matrix; in a pruned model a
        matrix may well become narrower than its adapter.
        """
        return _adaptation(self, architecture)


@dataclass(frozen=True)
class EveryParameter:
    """Full tuning, in an adapter's place: matrices, biases, norms, token and position tables.

    A tied LM head is the token table and counts once. `rank` is that of no adapter.
    """

    rank: int = 0

    @property
    def highest_rank(self) -> int:
        """No adapter has a rank."""
        return 0

    def at_most(self, rank: int) -> "EveryParameter":
        """There are no ranks to leave out."""
        return self

    def ranks(self, architecture: Decoder) -> Mapping[str, int]:
        """No matrix has an adapter."""
        return {}

    def adaptation(self, architecture: Decoder) -> Adaptation:
        """Every parameter."""
        return Adaptation(frozenset(), whole=True)


Trained: TypeAlias = AdapterShape | EveryParameter


@lru_cache(maxsize=64)
def _ranks(shape: AdapterShape, architecture: Decoder) -> Mapping[str, int]:
    paths = matrix_paths(architecture)
    targets = shape.target_modules
    wanted = None if targets == ALL_LINEAR else frozenset(targets)
    chosen = [path for path in paths if wanted is None or not wanted.isdisjoint(_endings(path))]
    known = frozenset(ending for path in paths for ending in _endings(path))
    for target in () if wanted is None else targets:
        if target not in known:
            raise _unknown_matrix("adapter.target_modules", target, architecture)
    adapted = frozenset(ending for path in chosen for ending in _endings(path))
    for name, _ in shape.rank_pattern:
        if name not in adapted:
            raise _unknown_matrix("adapter.rank_pattern", name, architecture)
    most = shape.most or shape.highest_rank
    return MappingProxyType(
        {path: min(first_that_fits(path, shape.rank_pattern, shape.rank), most) for path in chosen}
    )


@lru_cache(maxsize=64)
def _adaptation(shape: AdapterShape, architecture: Decoder) -> Adaptation:
    ranks, places = shape.ranks(architecture), matrix_paths(architecture)
    around: set[tuple[str, int]] = set()
    inside: list[set[tuple[str, int]]] = [set() for _ in range(architecture.block_count)]
    for path, rank in ranks.items():
        matrix = places[path]
        width = min(matrix.read, matrix.write)
        if rank > width:
            raise InputError(
                "adapter.rank",
                rank,
                f"at most {width}, the width of {matrix.name}",
                "a higher rank than the matrix itself only costs",
            )
        (around if matrix.block is None else inside[matrix.block]).add((matrix.name, rank))
    frozen = shape.frozen_a
    blocks = [Adaptation(frozenset(own), frozen_a=frozen) for own in inside]
    if all(block == blocks[0] for block in blocks):
        return Adaptation(frozenset(around | inside[0]), frozen_a=frozen)
    return Adaptation(frozenset(around), blocks=tuple(blocks), frozen_a=frozen)


@lru_cache(maxsize=16)
def matrix_paths(architecture: Decoder) -> Mapping[str, Matrix]:
    """Dotted path of every matrix that LoRA may adapt -> the matrix, in module order."""
    if isinstance(architecture, CountedArchitecture):
        return MappingProxyType({matrix.path: matrix for matrix in architecture.matrices})
    structure = architecture.structure
    places: list[tuple[int | None, str, tuple[Linear, ...]]] = [
        (None, structure.around_path, structure.input_linears),
        *(
            (block, f"{structure.block_path}.{block}", structure.linears)
            for block in range(architecture.block_count)
        ),
        (None, structure.around_path, structure.output_linears),
    ]
    return MappingProxyType(
        {
            f"{path}.{linear.name}": _matrix(architecture, f"{path}.{linear.name}", block, linear)
            for block, path, linears in places
            for linear in linears
        }
    )


def _matrix(architecture: Architecture, path: str, block: int | None, linear: Linear) -> Matrix:
    """The projections beside the blocks belong to the half that holds the first or last block."""
    beside = 0 if linear.role is Role.PROJECT_IN else architecture.block_count - 1
    return Matrix(
        path,
        linear.name,
        block,
        beside if block is None else block,
        linear.input_width(architecture.widths),
        linear.output_width(architecture.widths),
        linear.role,
    )


def first_that_fits(path: str, pattern: Iterable[tuple[str, Any]], default: Any) -> Any:
    """The value of the first name in `pattern` that a matrix's path ends with."""
    return next((value for name, value in pattern if name in _endings(path)), default)


def _endings(path: str) -> list[str]:
    """`a.b.c` -> `c`, `b.c`, `a.b.c`: the names that mean this matrix."""
    words = path.split(".")
    return [".".join(words[start:]) for start in range(len(words))]


def _unknown_matrix(field: str, name: str, architecture: Decoder) -> InputError:
    names = list(dict.fromkeys(matrix.name for matrix in matrix_paths(architecture).values()))
    endings = {name.split(".")[-1]: name for name in names}
    mixture = isinstance(architecture, Architecture) and architecture.structure.experts
    experts = "experts, router, " if mixture else ""
    return InputError(
        field,
        name,
        f"among {', '.join(names)} ({experts}embedding and LM head cannot be adapted)",
        suggest(name, [*endings, *names]),
    )


def adapter_tensors(
    architecture: Decoder, adapter: Trained, blocks: range | None = None
) -> dict[str, tuple[int, int]]:
    """PEFT's tensor names and shapes of an adapter, in module order.

    `blocks` limits it to some blocks, as a split model's client half holds; the projections beside
    the blocks belong to the half that holds the first, or the last, block. Every parameter of a
    model counts as one column, of a name of its own: what a flat frame's length depends on.
    """
    if isinstance(adapter, EveryParameter):
        return {"parameters": (architecture.parameters, 1)}
    places = matrix_paths(architecture)
    blocks = range(architecture.block_count) if blocks is None else blocks
    tensors: dict[str, tuple[int, int]] = {}
    for path, rank in adapter.ranks(architecture).items():
        matrix = places[path]
        if matrix.half in blocks:
            name = f"base_model.model.{path}"
            tensors[f"{name}.lora_A.weight"] = (rank, matrix.read)
            tensors[f"{name}.lora_B.weight"] = (matrix.write, rank)
    return tensors


def adapter_parameters(architecture: Decoder, adapter: Trained, blocks: range | None = None) -> int:
    """How many numbers are trained: sum over adapted matrices of rank (in + out), or all."""
    shapes = adapter_tensors(architecture, adapter, blocks).values()
    return sum(rows * columns for rows, columns in shapes)
