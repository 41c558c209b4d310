"""`airtune plan`: solve a planning problem and show the plan, or how it changes with a key."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airtune.cli.run import refuse_beside
from airtune.errors import InputError

if TYPE_CHECKING:
    from airtune.methods.plan import Planned

INFEASIBLE = 3
"""Exit code where no plan exists."""
_MOST_ROWS = 40
_NOT_IN_SWEEP = ("message", "plan", "clients", "check", "solver", "iterations")

Problem = Annotated[Path, typer.Argument(metavar="PROBLEM", help="A problem file (YAML).")]


def plan(
    problem: Problem,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    solver: Annotated[
        str | None, typer.Option(metavar="NAME", help="A solver of the method.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=A,B,C",
            help="Solve once for each value of a key, or combination of several.",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Simulate many rounds (methods with a queue)."),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the simulated rounds there.")
    ] = None,
    write_problem: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the problem with all its numbers, and stop."),
    ] = None,
) -> None:
    """Plan pruning, sparsity, split or rank together with radio resources, with a proven bound.

    Exits with 3 if no plan exists, and with 2 for bad input.
    """
    from airtune.files import require_place

    for option, path in (("--trace", trace), ("--write-problem", write_problem)):
        if path is not None:
            require_place(option, path)
    mapping = read_problem(problem)
    simulated = rounds is not None or trace is not None
    if sweep:
        refuse_beside(
            "--sweep", {"--rounds": rounds, "--trace": trace, "--write-problem": write_problem}
        )
        _show_sweep(mapping, sweep, solver, json)
        return
    if simulated:
        mapping = _with_mean_channel(mapping)
    [(mapping, sentences)] = _explicit([mapping])
    if write_problem is not None:
        refuse_beside("--write-problem", {"--json": json, "--solver": solver, "--trace": trace})
        _write(write_problem, mapping, sentences)
    elif simulated:
        _simulate(mapping, rounds, trace, solver, json)
    else:
        _show(_solve(mapping, solver), json)


def read_problem(path: Path) -> Mapping[str, Any]:
    """The content of a problem file. Raises InputError for a file that is none."""
    from airtune.methods.file_kinds import PROBLEM, refuse_other_kind
    from airtune.methods.plan import load_problem
    from airtune.part_folders import beside_experiment

    mapping = load_problem(path)
    beside_experiment(path)
    refuse_other_kind(mapping, path, PROBLEM)
    return mapping


def explicit_problem(path: Path) -> Mapping[str, Any]:
    """A problem file in explicit numbers; notices on standard error."""
    [(mapping, _)] = _explicit([read_problem(path)])
    return mapping


def _explicit(
    mappings: Sequence[Mapping[str, Any]],
) -> list[tuple[Mapping[str, Any], Sequence[str]]]:
    """Each problem in explicit numbers, with sentences on where they come from.

    What a user must know before trusting numbers made from a model and a cell goes to standard
    error, once, away from the answer.
    """
    from airtune.methods.plan import names_a_model

    if not any(map(names_a_model, mappings)):
        return [(mapping, ()) for mapping in mappings]
    from airtune.methods.plan import from_cell

    problems = [from_cell(mapping) for mapping in mappings]
    for notice in dict.fromkeys(notice for problem in problems for notice in problem.notices):
        typer.echo(f"Note: {notice}", err=True)
    return [(problem.numbers, (*problem.origin, *problem.notices)) for problem in problems]


def _with_mean_channel(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """Simulated rounds draw fading around a problem's gains, which must not contain it already."""
    from airtune.methods.plan import names_a_model

    if not names_a_model(mapping):
        return mapping
    if mapping.get("round", "mean") != "mean":
        remedy = "simulated rounds draw their own fading"
        raise InputError("round", mapping["round"], "mean, or left out, with --rounds", remedy)
    return {**mapping, "round": "mean"}


def _solve(mapping: Mapping[str, Any], solver: str | None) -> "Planned":
    from airtune.methods.plan import plan as solve

    planned = solve(mapping, solver)
    assert not isinstance(planned, list), "a file has no channel draws"
    return planned


def _show(planned: "Planned", json: bool) -> None:
    answer = planned.answer
    if json:
        _print_json(answer)
    else:
        _print_table(planned, answer)
    if planned.solution.plan is None:
        raise typer.Exit(INFEASIBLE)


def _print_json(value: Any) -> None:
    from json import dumps

    typer.echo(dumps(value, indent=2, allow_nan=False))


def _print_table(planned: "Planned", answer: dict[str, Any]) -> None:
    """The status sentence, one row per client, and what is proven."""
    from airtune.cli.text import facts, page_width, prose

    solution, width = planned.solution, page_width()
    typer.echo(prose(solution.message, width))
    rows = answer.get("clients")
    if not rows:
        return
    differing, same = _split_columns(rows)
    typer.echo(f"\n{_client_table(differing, width)}\n")
    shown = [
        (_title(key), _shown(key, value))
        for key, value in answer.items()
        if key not in ("status", "message", "clients", "check")
    ]
    shown += [(f"{_title(key)}, all clients", value) for key, value in same.items()]
    if solution.check is not None:
        name, excess = solution.check.worst
        held = f"every constraint holds; tightest: {name} ({excess:+.0e})"
        shown.append(("check", held))
    typer.echo(facts(shown, width))


def _split_columns(rows: list[dict[str, Any]]) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The rows as text without the delays that are alike for all clients, and those delays.

    A column of nothing but 0 or False is left out altogether; JSON has it.
    """
    shown = [{key: _shown(key, value) for key, value in row.items()} for row in rows]
    empty = {key for key in rows[0] if not any(row[key] for row in rows)} - {"pruning_rate"}
    same = {
        key: shown[0][key]
        for key in rows[0]
        if key.endswith("_s") and len(rows) > 1 and len({row[key] for row in shown}) == 1
    }
    left_out = empty | same.keys()
    kept = [{key: text for key, text in row.items() if key not in left_out} for row in shown]
    return kept, {key: text for key, text in same.items() if key not in empty}


def _client_table(rows: list[dict[str, str]], width: int | None) -> str:
    from airtune.cli.text import text_table

    more = len(rows) - _MOST_ROWS
    rest = f"\nand {more} more clients (--json has all)" if more > 0 else ""
    # The name, where there is one, identifies the client of a row in every block.
    order = sorted(rows[0], key=lambda key: key != "name")
    cells = [[row[key] for key in order] for row in rows[:_MOST_ROWS]]
    return text_table([_title(key) for key in order], cells, width=width) + rest


def _show_sweep(
    mapping: Mapping[str, Any], sweep: Sequence[str], solver: str | None, json: bool
) -> None:
    """One row per point of the swept keys; exits with 3 if no point has a plan."""
    from airtune.cli.text import page_width, text_table
    from airtune.sweeping.axes import read_axes, show
    from airtune.sweeping.planning import problem_at

    axes = read_axes(sweep, option="--sweep")
    problems = _explicit([problem_at(mapping, point) for point in axes.points])
    answers = [_solve(numbers, solver).answer for numbers, _ in problems]
    found = list(zip(axes.points, answers, strict=True))
    if json:
        _print_json([{**point.values, **answer} for point, answer in found])
    else:
        columns = [name for name in answers[0] if name not in _NOT_IN_SWEEP]
        rows = [
            [*map(show, point.values.values()), *(_shown(name, answer[name]) for name in columns)]
            for point, answer in found
        ]
        headings, width = [*axes.keys, *map(_title, columns)], page_width()
        typer.echo(text_table(headings, rows, left=("status",), keys=len(axes.keys), width=width))
        for point, answer in found:
            if answer["status"] == "infeasible":
                words = ", ".join(f"{key} = {show(value)}" for key, value in point.values.items())
                typer.echo(f"{words}: {answer['message']}")
    if all(answer["status"] == "infeasible" for answer in answers):
        raise typer.Exit(INFEASIBLE)


def _simulate(
    mapping: Mapping[str, Any],
    rounds: int | None,
    trace: Path | None,
    solver: str | None,
    json: bool,
) -> None:
    """Many rounds of a method that carries state from round to round."""
    from airtune.methods.plan import method_of, simulated, solver_of

    name, method = method_of(mapping)
    simulate = getattr(method, "simulate", None)
    if simulate is None:
        option, given = ("--rounds", rounds) if rounds is not None else ("--trace", str(trace))
        raise InputError(
            option,
            given,
            f"left out unless method keeps a queue ({', '.join(simulated())})",
            f"the problem's method is {name}",
        )
    if rounds is None:
        raise InputError("--trace", str(trace), "given together with --rounds")
    solver_of(method, name, solver)
    summary = simulate(method.read(mapping), rounds, trace, solver, _say)
    if json:
        _print_json(summary)
        return
    typer.echo(summary.pop("message"))
    for key, value in summary.items():
        if value is not None:
            typer.echo(f"{_title(key)}: {_shown(key, value)}")


def _say(sentence: str) -> None:
    """What a user should read besides the answer, on standard error."""
    typer.echo(f"Note: {sentence}", err=True)


def _write(path: Path, mapping: Mapping[str, Any], sentences: Sequence[str]) -> None:
    """The problem as YAML below its sentences, to be kept, edited and solved elsewhere."""
    from io import StringIO
    from textwrap import fill

    from ruamel.yaml import YAML

    from airtune.files import write_text_atomic

    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = StringIO()
    for sentence in sentences:
        text.write(fill(sentence, 100, initial_indent="# ", subsequent_indent="#   ") + "\n")
    writer.dump(dict(mapping), text)
    write_text_atomic(path, text.getvalue())
    typer.echo(f"Wrote {path}. To solve it: airtune plan {quote(str(path))}")


def _title(key: str) -> str:
    """A key without its unit, which the value shows."""
    from airtune.cli.text import split_unit

    return split_unit(key)[0]


def _shown(key: str, value: Any) -> str:
    from airtune.cli.text import show_value

    return show_value(key, value)
