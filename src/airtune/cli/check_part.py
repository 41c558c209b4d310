"""`airtune check-part`: a user-defined part against the promises of its base class."""

from textwrap import indent
from typing import Annotated

import typer

from airtune.cli.run import Parts, Settings

EXIT_BROKEN = 1
INDENT = 10
"""Columns of the mark before each promise."""


def check_part(
    part: Annotated[
        str, typer.Argument(metavar="MODULE:CLASS", help="Import path of the part's class.")
    ],
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the part; repeatable."),
    ] = None,
    settings: Settings = None,
    parts: Parts = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try a planner, tuner, codec, aggregator or channel model of your own.

    Each promise of its base class is tried by itself, then two rounds of a small built-in
    experiment are run with it, once whole and once resumed. `--set method=NAME` chooses the
    parts beside it. Exits with 1 if a promise is broken.
    """
    from airtune.config.experiment import with_settings
    from airtune.experiment.part_check import check_part as tried
    from airtune.part_folders import beside_experiment, name_folders

    beside_experiment(None)
    name_folders(parts or ())
    found = tried(part, with_settings({}, options or ()), settings=settings or ())
    if json:
        from dataclasses import asdict
        from json import dumps

        typer.echo(dumps({**asdict(found), "passed": found.passed}, indent=2))
    else:
        from airtune.cli.text import page_width, prose

        typer.echo(f"{found.kind} {found.part} beside the parts of {found.method}:")
        for finding in found.findings:
            mark = "kept   " if finding.kept else "BROKEN "
            typer.echo(f"  {mark} {finding.promise}")
            if not finding.kept:
                width = page_width()
                reason = prose(finding.reason, width and width - INDENT)
                typer.echo(indent(reason, " " * INDENT))
        typer.echo("Every promise is kept." if found.passed else "A promise is broken.")
    if not found.passed:
        raise typer.Exit(EXIT_BROKEN)
