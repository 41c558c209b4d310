"""`airtune channel`: write the channels of an experiment's cell, for other programs."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from airtune.cli.run import Settings
from airtune.errors import InputError

MOST_ROWS = 1_000_000
"""Rounds times clients in a file; a csv then has about 0.6 GB."""
MANY_ROUNDS = 1000


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
    from airtune.config.experiment import read_config
    from airtune.config.unused import refuse_unused
    from airtune.files import require_place
    from airtune.wireless.channel import open_channel
    from airtune.wireless.replay import check_recording_name

    check_recording_name(out, "FILE")
    require_place("FILE", out)
    if out.exists():
        raise InputError("FILE", str(out), "a new file", "choose another name, or remove it first")
    config = read_config(experiment, settings or ())
    refuse_unused(config)
    clients = config.clients.count
    if rounds * clients > MOST_ROWS:
        raise InputError(
            "--rounds", rounds, f"at most {MOST_ROWS // clients} with {clients} clients",
            f"a file holds up to {MOST_ROWS:,} rounds times clients",
        )  # fmt: skip
    drawn = open_channel(config.cell, clients, config.seed)
    drawn.require_rounds(rounds)
    if rounds > MANY_ROUNDS:
        typer.echo(f"Drawing {rounds} rounds; this may take minutes.", err=True)
    drawn.export(out, range(rounds))
    typer.echo(
        f"Wrote {rounds} rounds of {clients} clients to {out}. "
        f"To run on them: airtune run --set {quote(f'cell.replay={out}')}"
    )
