"""`airtune advise`: what each method would take, what binds, what would help; no training."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from airtune.cli.run import Parts, Settings
from airtune.errors import InputError

if TYPE_CHECKING:
    from airtune.advising import Advice

EXIT_IMPOSSIBLE = 3
_SECONDS = {"": 1.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)")


def advise(
    experiment: Annotated[
        Path | None,
        typer.Argument(metavar="[EXPERIMENT.yaml]", help="The experiment; without one, built in."),
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(metavar="2h", help="Of the whole job: 90 s, 30min, 2h, 1d 12h.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Of the job; else the experiment's.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Method names, or name:key=value+key=value; else all that fit."
        ),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Channels to look at.")] = 50,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PAGE.html", help="Write a page there.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
    parts: Parts = None,
) -> None:
    """Say what each method would take on this cell, what binds, and what would help; no training.

    Exits with 3 if no method is feasible (within the deadline), and with 2 for bad input.
    """
    if out is not None:
        _check_page(out)
    deadline_s = None if deadline is None else seconds_of(deadline)
    with _few_collections():
        from airtune.advising import advise as ask
        from airtune.comparison.definition import parse_methods
        from airtune.experiment import Experiment
        from airtune.part_folders import name_folders

        name_folders(parts or ())
        job = Experiment.load(experiment, settings or ())
        chosen = None if methods is None else parse_methods(methods)
        advice = ask(job, deadline_s=deadline_s, rounds=rounds, methods=chosen, draws=draws)
    _show(advice, json, out)
    if not advice.possible:
        raise typer.Exit(EXIT_IMPOSSIBLE)


@contextmanager
def _few_collections() -> Iterator[None]:
    """Python's search for cycles of dead objects goes through all of torch and transformers; there
    are few such cycles here, so it is made seldom."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 1_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def seconds_of(text: str) -> float:
    """`2h`, `1h30min`, `90 s` or `5400` in seconds."""
    parts = _PART.findall(text.lower())
    whole = "".join(f"{number}{unit}" for number, unit in parts)
    known = whole == re.sub(r"\s", "", text.lower()) and all(unit in _SECONDS for _, unit in parts)
    total = sum(float(number) * _SECONDS[unit] for number, unit in parts) if known else 0.0
    if not total > 0:
        raise InputError("--deadline", text, "a duration such as 90 s, 30min, 2h or 1d 12h")
    return total


def _check_page(path: Path) -> None:
    from airtune.files import require_place

    if path.suffix != ".html":
        raise InputError("--out", str(path), "a name that ends in .html")
    require_place("--out", path)


def _show(advice: "Advice", json: bool, out: Path | None) -> None:
    if out is not None:
        from airtune.files import write_text_atomic
        from airtune.report.advice_page import render_advice

        write_text_atomic(out, render_advice(advice.to_json()))
    if json:
        from json import dumps

        typer.echo(dumps(advice.to_json(), indent=2, allow_nan=False))
        return
    from airtune.cli.advice_view import text_of

    typer.echo(text_of(advice))
    if out is not None:
        typer.echo(f"\nWrote {out}.")
