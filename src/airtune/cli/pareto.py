"""`airtune pareto`: the front of latency against energy of a planning problem."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from airtune.cli.plan import INFEASIBLE, Problem, explicit_problem
from airtune.errors import InputError

_HIDDEN = ("message", "solver")


def pareto(
    problem: Problem,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C", help="Seconds of latency that a joule is worth, a point each."
        ),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Energy budgets of all clients [J], a point each."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the points there as csv.")
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the front there: .svg, .pdf or .png."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Plan for one weight on energy, or one energy budget, after another.

    Without weights and budgets, 25 weights span the front. Exits with 3 if no point has a plan.
    """
    from airtune.files import require_place, write_text_atomic
    from airtune.report.figures.write import csv_text, require_drawable

    for option, path in (("--csv", csv), ("--figure", figure)):
        if path is not None:
            require_place(option, path)
    if figure is not None:
        require_drawable(figure)
    rows = _points(problem, _numbers("--weights", weights), _numbers("--budgets", budgets))
    if json:
        from json import dumps

        typer.echo(dumps(rows, indent=2, allow_nan=False))
    else:
        _show(rows)
    if csv is not None:
        keys = [key for key in rows[0] if key != "message"]
        write_text_atomic(csv, csv_text([keys, *([row[key] for key in keys] for row in rows)]))
    if figure is not None:
        _draw(rows, figure)
    if not json:
        for path in (csv, figure):
            if path is not None:
                typer.echo(f"Wrote {path}.")
    if all(row["latency_s"] is None for row in rows):
        raise typer.Exit(INFEASIBLE)


def _points(path: Path, weights: Sequence[float], budgets: Sequence[float]) -> list[dict[str, Any]]:
    """The rows of the problem's module, for the numbers of the file."""
    from airtune.methods.plan import fronted, method_of

    mapping = explicit_problem(path)
    name, method = method_of(mapping)
    front = getattr(method, "front", None)
    if front is None:
        raise InputError(
            "method", name, f"one that weighs latency against energy ({', '.join(fronted())})"
        )
    beside: Sequence[str] = getattr(method, "BESIDE_FRONT", ())
    others = {key: method.SOLVERS[key] for key in beside}
    rows: list[dict[str, Any]] = front(method.read(mapping), weights, budgets, others)
    return rows


def _numbers(option: str, text: str | None) -> list[float]:
    if text is None:
        return []
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(option, text, "numbers separated by commas") from None


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    from airtune.cli.text import page_width, show_value, split_unit, text_table

    keys = [
        key for key in rows[0] if key not in _HIDDEN and any(row[key] is not None for row in rows)
    ]
    shown = [[row["solver"], *(show_value(key, row[key]) for key in keys)] for row in rows]
    headings = ["solver", *(split_unit(key)[0] for key in keys)]
    table = text_table(headings, shown, left=("solver", "status"), width=page_width())
    typer.echo(table)
    for row in rows:
        if row["latency_s"] is None:
            typer.echo(f"{row['solver']}: {row['message']}")


def _draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The front as a line, other solvers as points."""
    from airtune.report.figures.drawing import Axis, Curve, Curves
    from airtune.report.figures.write import write_drawing

    curves = []
    for name in dict.fromkeys(row["solver"] for row in rows):
        found = [row for row in rows if row["solver"] == name and row["latency_s"] is not None]
        if found:
            x, y = ([row[key] for row in found] for key in ("latency_s", "energy_j"))
            curves.append(Curve(name, 1, range(len(x)), x, y))
    if not curves:
        raise InputError("--figure", str(path), "left out where no point has a plan")
    drawing = Curves(
        "front", Axis("latency", "s", "latency"), Axis("energy", "J", "energy"), tuple(curves)
    )
    write_drawing(drawing, path)
