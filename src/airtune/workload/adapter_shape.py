"""What is trained: LoRA on some matrices, checked against an architecture, or every parameter.

An adapted matrix W (out x in) gains A (rank x in) and B (out x rank); see Hu et al., LoRA,
arXiv 2106.09685, section 4.1.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias

from airtune.errors import InputError
from airtune.workload.architecture import Architecture
from airtune.workload.block import Linear
from airtune.workload.gradient_flow import Adaptation
from airtune.workload.step import require_count

ALL_LINEAR = "all-linear"
"""PEFT's word for every linear layer but the LM head."""


@dataclass(frozen=True)
class AdapterShape:
    """Rank and target modules, named as PEFT names them.

    A name stands for every matrix whose dotted name ends with it, so `c_proj` means both of
    GPT-2's and `mlp.c_proj` only one.
    """

    rank: int
    target_modules: str | tuple[str, ...] = ALL_LINEAR

    def __post_init__(self) -> None:
        require_count("adapter.rank", self.rank)
        targets = self.target_modules
        if isinstance(targets, str) and targets != ALL_LINEAR:
            raise InputError(
                "adapter.target_modules", targets, f"{ALL_LINEAR} or a list of module names"
            )
        if not targets:
            raise InputError("adapter.target_modules", "empty", "at least one module name")

    def adapted(self, architecture: Architecture) -> frozenset[str]:
        """Names of the adapted matrices: inside a block, and of the projections around them.

        Raises InputError for a name the family does not have, with the closest one that it has.
        """
        linears = architecture.structure.all_linears
        chosen = frozenset(
            linear.name
            for linear in linears
            if self.target_modules == ALL_LINEAR
            or any(_matches(linear.name, target) for target in self.target_modules)
        )
        if self.target_modules != ALL_LINEAR:
            _refuse_unknown(self.target_modules, linears)
        return chosen

    def adaptation(self, architecture: Architecture) -> Adaptation:
        """The adapted matrices and their rank, checked against the UNPRUNED model.

        Raises InputError also for a rank above the width of an adapted matrix; in a pruned model a
        matrix may well become narrower than its adapter.
        """
        chosen = self.adapted(architecture)
        widths = architecture.widths
        for linear in architecture.structure.all_linears:
            width = min(linear.input_width(widths), linear.output_width(widths))
            if linear.name in chosen and self.rank > width:
                raise InputError(
                    "adapter.rank",
                    self.rank,
                    f"at most {width}, the width of {linear.name}",
                    "a higher rank than the matrix itself only costs",
                )
        return Adaptation(chosen, self.rank)


@dataclass(frozen=True)
class EveryParameter:
    """Full tuning, in an adapter's place: matrices, biases, norms, token and position tables.

    A tied LM head is the token table and counts once. `rank` is that of no adapter.
    """

    rank: int = 0

    def adapted(self, architecture: Architecture) -> frozenset[str]:
        """No matrix has an adapter."""
        return frozenset()

    def adaptation(self, architecture: Architecture) -> Adaptation:
        """Every parameter."""
        return Adaptation(frozenset(), 0, whole=True)


Trained: TypeAlias = AdapterShape | EveryParameter


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _refuse_unknown(targets: str | tuple[str, ...], linears: tuple[Linear, ...]) -> None:
    names = [linear.name for linear in linears]
    for target in targets:
        if not any(_matches(name, target) for name in names):
            endings = {name.split(".")[-1]: name for name in names}
            close = get_close_matches(str(target), [*endings, *names], n=1, cutoff=0.4)
            raise InputError(
                "adapter.target_modules",
                target,
                f"among {', '.join(names)} (embedding and LM head cannot be adapted)",
                f"the closest is {close[0]}" if close else "",
            )


def adapter_tensors(
    architecture: Architecture, adapter: Trained, blocks: range | None = None
) -> dict[str, tuple[int, int]]:
    """PEFT's tensor names and shapes of an adapter, in module order.

    `blocks` limits it to some blocks, as a split model's client half holds; the projections beside
    the blocks belong to the half that holds the first, or the last, block. Every parameter of a
    model counts as one column, of a name of its own: what a flat frame's length depends on.
    """
    if isinstance(adapter, EveryParameter):
        return {"parameters": (architecture.parameters, 1)}
    adapted = adapter.adapted(architecture)
    blocks = range(architecture.block_count) if blocks is None else blocks
    structure = architecture.structure
    tensors: dict[str, tuple[int, int]] = {}

    def add(path: str, linears: tuple[Linear, ...]) -> None:
        for linear in linears:
            if linear.name in adapted:
                name = f"base_model.model.{path}.{linear.name}"
                widths = architecture.widths
                tensors[f"{name}.lora_A.weight"] = (adapter.rank, linear.input_width(widths))
                tensors[f"{name}.lora_B.weight"] = (linear.output_width(widths), adapter.rank)

    if 0 in blocks:
        add(structure.around_path, structure.input_linears)
    for block in blocks:
        add(f"{structure.block_path}.{block}", structure.linears)
    if architecture.block_count - 1 in blocks:
        add(structure.around_path, structure.output_linears)
    return tensors


def adapter_parameters(
    architecture: Architecture, adapter: Trained, blocks: range | None = None
) -> int:
    """How many numbers are trained: sum over adapted matrices of rank (in + out), or all."""
    shapes = adapter_tensors(architecture, adapter, blocks).values()
    return sum(rows * columns for rows, columns in shapes)
