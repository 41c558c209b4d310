"""`airtune deploy flower` and `trainer`: Flower as the carrier of a deployment."""

from pathlib import Path
from typing import Annotated

import typer

from airtune.cli import deployment as shared
from airtune.cli.run import Parts, Quiet, Settings


def flower(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the app.")],
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run, on the server's machine.  [default: DIR-run]"),
    ] = None,
    settings: Settings = None,
) -> None:
    """Write a Flower app that runs an experiment with Flower's nodes as clients."""
    from airtune.deploy.extra import deploy_extra

    with deploy_extra():
        from airtune.deploy.flower.app_folder import write_app
    from airtune.experiment import Experiment

    run = write_app(Experiment.load(experiment, settings or ()).config, folder, out)
    typer.echo(
        f"{folder} is a Flower app, README.md in it has the commands. Its run folder will be {run}."
    )


def trainer(
    socket: Annotated[
        Path,
        typer.Option(metavar="PATH", help="Where this machine's SuperNode finds the trainer."),
    ],
    data: shared.Data,
    model: shared.Model = None,
    device: shared.Device = None,
    device_file: shared.DeviceFile = None,
    state: shared.State = None,
    file: shared.OwnFiles = None,
    allow_part: shared.AllowPart = None,
    parts: Parts = None,
    chat_template: shared.ChatTemplate = None,
    trust_remote_code: shared.TrustRemoteCode = False,
    threads: shared.Threads = None,
    delimiter: shared.Delimiter = None,
    quiet: Quiet = False,
) -> None:
    """Train on this machine's rows for a Flower SuperNode beside it, until it is ended."""
    shared.check_data(data)
    from airtune.deploy.flower.answering import Answerer
    from airtune.deploy.flower.handover import answer_one, listening
    from airtune.deploy.owned import ending_unwinds
    from airtune.deploy.trainer import ClientOptions
    from airtune.part_folders import name_folders

    name_folders(parts or ())
    options = ClientOptions(
        data,
        model,
        device,
        device_file,
        shared.key_files(file),
        tuple(allow_part or ()),
        chat_template,
        trust_remote_code,
        threads,
        delimiter,
    )
    say = shared.teller(quiet)
    answerer = Answerer(options, lambda number: state or shared.state_folder(number), say)
    with ending_unwinds(), listening(socket) as listener:
        say(f"Waiting at {socket} for frames.")
        while True:
            answer_one(listener, answerer.answer, say)
