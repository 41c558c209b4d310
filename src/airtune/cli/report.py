"""`airtune report`: the page of runs or of a comparison; figures and tables for a paper."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from airtune.cli.run import Parts, refuse_beside

if TYPE_CHECKING:
    from airtune.report.figures.write import Written


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUNS", help="Folders of runs, or one of a comparison."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File of the page, or folder of the figures; else report.html, or figures, in the "
            "one folder."
        ),
    ] = None,
    figures: Annotated[
        str | None,
        typer.Option(metavar="KINDS", help="Write figures for a paper instead: pdf, svg, png."),
    ] = None,
    columns: Annotated[
        int | None, typer.Option(help="Columns that a figure is wide: 1 or 2.", show_default="1")
    ] = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="Write tables of the results as LaTeX and csv instead.")
    ] = False,
    parts: Parts = None,
) -> None:
    """Write the page of a run (finished or not), of several runs, or of a comparison.

    It is made from the rounds written so far; no model is loaded. With --figures and --latex, what
    a paper needs of them.
    """
    if figures is None and columns is not None:
        refuse_beside("a page (no --figures)", {"--columns": columns})
    if figures is None and not latex:
        _page(runs, out, parts or ())
        return
    from airtune.report.figures.write import write_figures, write_tables

    if figures is not None:
        kinds = [kind.strip() for kind in figures.split(",") if kind.strip()]
        _tell(write_figures(runs, kinds, 1 if columns is None else columns, out))
    if latex:
        _tell(write_tables(runs, out), noted=figures is not None)


def _page(runs: list[Path], out: Path | None, parts: "list[Path] | tuple[()]") -> None:
    from airtune.cli.text import page_width, prose
    from airtune.comparison.pages import write_page
    from airtune.part_folders import name_folders
    from airtune.quantities import format_quantity

    name_folders(parts)
    page, source = write_page(runs, out)
    for note in source.notes:
        typer.echo(prose(note, page_width()))
    typer.echo(f"Wrote {page} ({format_quantity(page.stat().st_size, 'B')}).")


def _tell(written: "Written", *, noted: bool = False) -> None:
    """What is left out, unless it was `noted` before, and the files: a line a figure or table."""
    from airtune.cli.text import page_width, prose

    for note in () if noted else written.notes:
        typer.echo(prose(note, page_width()))
    kinds: dict[Path, list[str]] = {}
    for path in written.files:
        kinds.setdefault(path.with_suffix(""), []).append(path.suffix[1:])
    for path, suffixes in kinds.items():
        typer.echo(f"Wrote {path} ({', '.join(suffixes)})")
