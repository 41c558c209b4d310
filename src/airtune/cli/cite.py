"""`airtune cite`: what to cite."""

from pathlib import Path
from typing import Annotated

import typer

from airtune.cli.completing import methods


def cite(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[METHOD|RUN_DIR]",
            help="A method, or the folder of a run; without one, airtune alone.",
            autocompletion=methods,
        ),
    ] = None,
) -> None:
    """Print BibTeX of airtune, and of what a method or a run rests on."""
    from airtune.methods.citing import bibtex, references_of, references_of_run

    if what is None:
        references = []
    elif Path(what).is_dir():
        from airtune.experiment.run import Run

        references = references_of_run(Run.open(what).config)
    else:
        references = references_of(what)
    typer.echo(bibtex(references))
