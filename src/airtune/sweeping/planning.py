"""A sweep of a planning problem: each point is solved, and its answer kept in a file."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from airtune.errors import AirtuneError, InputError, foreign_code
from airtune.files import make_folder, write_json_atomic
from airtune.folder_lock import locked
from airtune.jobs.job import FAILED, INFEASIBLE, state_of
from airtune.sweeping.axes import Point, folder_names
from airtune.sweeping.definition import Sweep, refuse_other_sweep, write_definition
from airtune.sweeping.table import Row, SweepResult

NOT_IN_A_ROW = (
    "status", "message", "plan", "clients", "check", "solver", "iterations", "solve_time_s",
)  # fmt: skip
"""Keys of an answer that are no numbers of the plan, or differ from one solving to the next."""


def with_value(content: Any, path: str, value: Any) -> Any:
    """A copy of the problem with one key changed; a path into a list changes every entry."""
    if isinstance(content, list):
        return [with_value(entry, path, value) for entry in content]
    if not isinstance(content, Mapping):
        raise InputError("the swept key", path, "a key of the problem")
    key, dot, rest = path.partition(".")
    return {**content, key: with_value(content.get(key, {}), rest, value) if dot else value}


def problem_at(base: Mapping[str, Any], point: Point) -> Mapping[str, Any]:
    """The problem of a point."""
    problem = dict(base)
    for key, value in point.values.items():
        problem = with_value(problem, key, value)
    return problem


def solved(problem: Mapping[str, Any], solver: str | None) -> tuple[dict[str, Any], list[str]]:
    """The answer, and what a user should know of numbers that are made from a model and a cell."""
    from airtune.methods.plan import from_cell, names_a_model, plan

    notices: Sequence[str] = ()
    if names_a_model(problem):
        found = from_cell(problem)
        problem, notices = found.numbers, found.notices
    planned = plan(problem, solver)
    assert not isinstance(planned, list), "a file has no channel draws"
    return planned.answer, list(notices)


def run_planning(sweep: Sweep, out: Path, at_once: int = 1) -> SweepResult:
    """Solve what is missing of a sweep of a problem, and write its table.

    Raises InputError before anything is solved, for a folder of something else or of another
    sweep; the error of the first point where all of them are refused.
    """
    _refuse_all(sweep)
    refuse_other_sweep(out, sweep)
    make_folder("--out", out)
    with locked(out):
        refuse_other_sweep(out, sweep)
        write_definition(out, sweep)
        place = out / "points"
        make_folder("--out", place)
        files = [place / f"{name}.json" for name in folder_names(sweep.points)]
        tasks = [
            partial(_work, problem_at(sweep.base, point), sweep.solver, path)
            for point, path in zip(sweep.points, files, strict=True)
            if _kept(path) is None
        ]
        _work_through(tasks, at_once)
        answers = [_kept(path) for path in files]
        rows = [_row(point, answer) for point, answer in zip(sweep.points, answers, strict=True)]
        method = sweep.base.get("method")
        result = SweepResult(
            out, sweep.kind, sweep.axes.keys, rows, {"method": method, "solver": sweep.solver}
        )
        result.write()
        return result


def _refuse_all(sweep: Sweep) -> None:
    """Raise the error of the first point where none of them can be read."""
    first: AirtuneError | None = None
    for point in sweep.points:
        try:
            read_problem(problem_at(sweep.base, point), sweep.solver)
            return
        except AirtuneError as error:
            first = first or error
    if first is not None:
        raise first


def read_problem(problem: Mapping[str, Any], solver: str | None) -> None:
    """Refuse what solving would refuse."""
    from airtune.methods.plan import from_cell, method_of, names_a_model, solver_of

    if names_a_model(problem):
        problem = from_cell(problem).numbers
    name, method = method_of(problem)
    solver_of(method, name, solver)
    method.read(problem)


def _work_through(tasks: Sequence[partial[None]], at_once: int) -> None:
    if at_once > 1 and len(tasks) > 1:
        from airtune.jobs.forks import run_in_forks

        for _ in run_in_forks(tasks, at_once, (__name__, "airtune.methods.plan"), _drop_event):
            pass
        return
    for task in tasks:
        task(_post_nothing)


def _drop_event(place: int, value: Any) -> None: ...


def _post_nothing(value: Any) -> None: ...


def _work(problem: Mapping[str, Any], solver: str | None, path: Path, post: Any) -> None:
    """Solve one point and keep its answer, or why there is none."""
    try:
        with foreign_code("The solver"):
            answer, notices = solved(problem, solver)
        kept = {"answer": answer, "notices": notices}
    except AirtuneError as error:
        kept = {"state": state_of(error), "sentence": str(error)}
    write_json_atomic(path, kept)


def _kept(path: Path) -> dict[str, Any] | None:
    """What is kept of a point that has an answer; one that failed is tried again."""
    with suppress(OSError, ValueError, KeyError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and ("answer" in found or found["state"] != FAILED):
            return found
    return None


def _row(point: Point, kept: Mapping[str, Any] | None) -> Row:
    if kept is None:
        words = "its process was killed; the same command tries it again."
        return Row(point.number, point.values, None, FAILED, {}, words)
    if "sentence" in kept:
        return Row(point.number, point.values, None, kept["state"], {}, kept["sentence"])
    answer = kept["answer"]
    numbers = {
        key: value
        for key, value in answer.items()
        if key not in NOT_IN_A_ROW and not isinstance(value, list | dict)
    }
    status = answer["status"]
    return Row(
        point.number,
        point.values,
        None,
        status,
        {} if status == INFEASIBLE else numbers,
        answer["message"],
    )
