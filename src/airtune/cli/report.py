"""`airtune report`: the page of a run, several runs or a comparison."""

from pathlib import Path
from typing import Annotated

import typer

from airtune.cli.run import Parts


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUNS", help="Folders of runs, or one of a comparison."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File of the page; else report.html in the one folder.")
    ] = None,
    parts: Parts = None,
) -> None:
    """Write the page of a run (finished or not), of several runs, or of a comparison.

    It is made from the rounds written so far; no model is loaded.
    """
    from airtune.cli.text import page_width, prose
    from airtune.comparison.pages import write_page
    from airtune.part_folders import name_folders
    from airtune.quantities import format_quantity

    name_folders(parts or ())
    page, source = write_page(runs, out)
    for note in source.notes:
        typer.echo(prose(note, page_width()))
    typer.echo(f"Wrote {page} ({format_quantity(page.stat().st_size, 'B')}).")
