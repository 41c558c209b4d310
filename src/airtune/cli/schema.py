"""`airtune schema`: the JSON Schema of a file, for editors."""

from typing import Annotated

import typer

KINDS = ("experiment", "problem", "device", "comparison")


def schema(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"{', '.join(KINDS)}.")],
) -> None:
    """Print the JSON Schema of a file, for an editor that completes and checks it."""
    from json import dumps

    from airtune.suggest import unknown_name

    if kind not in KINDS:
        raise unknown_name("KIND", kind, KINDS)
    from airtune.schemas import SCHEMAS

    typer.echo(dumps(SCHEMAS[kind](), indent=2, allow_nan=False))
