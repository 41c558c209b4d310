"""Planning problems: numbers in, plan out, no weights and no torch.

The numbers are in the problem, or follow from a model and a cell (`from_cell`).
A problem's module (`methods.spec.ProblemModule`) is imported when a problem names it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airtune.allocation.solve import Solution
from airtune.errors import InputError
from airtune.files import file_value, read_yaml_mapping
from airtune.methods.registry import find_problem, problem_specs
from airtune.methods.spec import ProblemModule
from airtune.planning.sections import CELL_KEYS
from airtune.suggest import suggest

if TYPE_CHECKING:
    from airtune.planning.scene import CellProblem

CHANNEL_COLUMNS = ("gain", "gain_db", "spectral_efficiency_bps_hz")
"""Columns of clients that may have a leading axis of channel draws, [draw, client]."""


@dataclass(frozen=True)
class Planned:
    """A problem with its solution."""

    method: str
    problem: Any
    solution: Solution[Any]

    @property
    def answer(self) -> dict[str, Any]:
        """The answer as plain data, what `airtune plan --json` prints."""
        return load_problem_module(self.method).answer(self.problem, self.solution)


def plan(
    problem: Mapping[str, Any] | str | Path,
    solver: str | None = None,
) -> Planned | list[Planned]:
    """Solve a planning problem.

    Args:
        problem: the content of a problem file, or the path of one. In explicit numbers `clients`
            is a list of mappings or a mapping of columns: arrays [client], or [draw, client] for
            many channel draws. It may name a model and a cell instead.
        solver: a name from the method's SOLVERS; its first one by default.

    Returns:
        The problem with its solution; a list with one per draw if any column has draws.

    Raises:
        InputError: bad input, in one sentence. An infeasible problem is no error: its status says
            so.
    """
    mapping = load_problem(problem)
    if names_a_model(mapping):
        mapping = from_cell(mapping).numbers
    name, method = method_of(mapping)
    solve = solver_of(method, name, solver)
    if _drawn_columns(mapping):
        return [_solved(name, method, solve, draw) for draw in _draws(mapping)]
    return _solved(name, method, solve, mapping)


def from_cell(mapping: Mapping[str, Any]) -> "CellProblem":
    """The explicit numbers of a problem that names a model, a cell and devices.

    The sections `model`, `adapter`, `cell`, `clients` and `training` are those of an experiment for
    `airtune run`; the method's own keys are beside them, at the top. Nothing is loaded or
    trained: the workload of any model follows from its config. docs/planning-from-a-model.md lists
    the keys.

    Raises InputError for unknown keys (with a suggestion), values out of range, a model that no
    device of the cell can hold, and channels that explicit numbers cannot express.
    """
    name, _ = method_of(mapping)
    spec = find_problem(name)
    if spec is None or spec.from_cell is None:
        raise InputError(
            "method",
            name,
            "one whose numbers follow from a model and a cell",
            "give explicit numbers of the clients",
        )
    problem: CellProblem = spec.from_cell(mapping)
    return problem


def load_problem(problem: Mapping[str, Any] | str | Path) -> Mapping[str, Any]:
    """The mapping itself, or that of the file."""
    if isinstance(problem, Mapping):
        # Columns of clients stay arrays: they may be a million long.
        return {
            key: value if key == "clients" else file_value(value) for key, value in problem.items()
        }
    return read_yaml_mapping(Path(problem), "problem")


def names_a_model(mapping: Mapping[str, Any]) -> bool:
    """Whether the numbers are still to be derived from a model and a cell."""
    return any(key in mapping for key in CELL_KEYS)


def method_of(mapping: Mapping[str, Any]) -> tuple[str, ProblemModule]:
    """The method that a problem names, and its module."""
    name = mapping.get("method")
    known = ", ".join(problem_specs())
    if name is None:
        raise InputError(
            "method",
            "missing",
            f"one of {known}",
            "name the planner; an experiment is for `airtune run`, a comparison for "
            "`airtune compare`",
        )
    if not isinstance(name, str):
        raise InputError("method", name, f"one of {known}")
    if find_problem(name) is None:
        raise InputError("method", name, f"one of {known}", suggest(name, problem_specs()))
    return name, load_problem_module(name)


def load_problem_module(name: str) -> ProblemModule:
    """The module of a planning problem, imported now."""
    spec = find_problem(name)
    assert spec is not None, "refused by method_of"
    return spec.load()


def solver_of(
    method: ProblemModule, name: str, solver: str | None
) -> Callable[[Any], Solution[Any]]:
    """A solver by name, the method's first one by default."""
    if solver is None:
        return next(iter(method.SOLVERS.values()))
    if solver not in method.SOLVERS:
        remedy = suggest(solver, method.SOLVERS)
        raise InputError(
            f"solver for {name}", solver, f"one of {', '.join(method.SOLVERS)}", remedy
        )
    return method.SOLVERS[solver]


def simulated() -> list[str]:
    """The problems that `airtune plan --rounds` simulates."""
    return [name for name, spec in problem_specs().items() if hasattr(spec.load(), "simulate")]


def fronted() -> list[str]:
    """The problems of which `airtune pareto` has a front."""
    return [name for name, spec in problem_specs().items() if hasattr(spec.load(), "front")]


def _solved(
    name: str,
    method: ProblemModule,
    solve: Callable[[Any], Solution[Any]],
    mapping: Mapping[str, Any],
) -> Planned:
    problem = method.read(mapping)
    return Planned(name, problem, solve(problem))


def _draws(mapping: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The problem of each draw: rows of the [draw, client] columns, the rest unchanged."""
    clients = mapping["clients"]
    drawn = _drawn_columns(mapping)
    counts = {len(clients[key]) for key in drawn}
    if len(counts) > 1:
        shown = " and ".join(map(str, sorted(counts)))
        raise InputError("draws", f"{shown} in different columns", "as many in every column")
    return [
        {**mapping, "clients": {**clients, **{key: clients[key][draw] for key in drawn}}}
        for draw in range(counts.pop())
    ]


def _drawn_columns(mapping: Mapping[str, Any]) -> list[str]:
    clients = mapping.get("clients")
    if not isinstance(clients, Mapping):
        return []
    return [key for key in CHANNEL_COLUMNS if np.ndim(clients.get(key, 0)) == 2]
