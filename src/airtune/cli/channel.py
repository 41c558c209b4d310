"""`airtune channel`: write the channels of an experiment's cell, for other people's solvers."""

from pathlib import Path
from typing import Annotated

import typer

from airtune.cli.run import Settings
from airtune.errors import InputError


def channel(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The .csv or .npz file to write.")],
    experiment: Annotated[
        Path | None,
        typer.Option("--experiment", metavar="EXPERIMENT.yaml", help="Without it, the built-in."),
    ] = None,
    settings: Settings = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many rounds.")] = 20,
) -> None:
    """Write the drawn channels of an experiment; cell.replay and other programs read them."""
    from airtune.config import read_config
    from airtune.wireless.channel import open_channel

    if out.exists():
        raise InputError("FILE", str(out), "a new file", "choose another name, or remove it first")
    config = read_config(experiment, settings or ())
    drawn = open_channel(config.cell, config.clients.count, config.seed)
    drawn.export(out, range(rounds))
    typer.echo(
        f"Wrote {rounds} rounds of {config.clients.count} clients to {out}. "
        f"To run on them: airtune run --set cell.replay={out}"
    )
