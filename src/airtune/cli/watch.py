"""`airtune watch`: a run, a comparison or a sweep as it goes on, from another process."""

from pathlib import Path
from typing import Annotated

import typer

from airtune.errors import InputError

LOOKS_EVERY_S = 0.5


def watch(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Folder of a run, a comparison, a sweep or a server."),
    ],
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Show it here instead of on a page.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the page; else a free one.")
    ] = None,
) -> None:
    """Show a run as it goes on: a live page on this machine alone, or a view at the terminal.

    It reads the folder and writes nothing there. Ctrl-C ends the watching, not the run.
    """
    _wait_for_the_first_file(run)
    if terminal:
        if port is not None:
            raise InputError("--port", port, "left out beside --terminal", "there is no page")
        _at_terminal(run)
    else:
        _as_page(run, port or 0)


def _wait_for_the_first_file(run: Path) -> None:
    """A run that still loads has its folder and its lock, and no file."""
    import time

    from airtune.folder_lock import is_held
    from airtune.watching.state import kind_of_folder

    told = False
    while True:
        try:
            kind_of_folder(run)
            return
        except InputError:
            if not is_held(run):
                raise
        if not told:
            typer.echo(f"{run} is loading.")
        told = True
        time.sleep(LOOKS_EVERY_S)


def _at_terminal(run: Path) -> None:
    from airtune.cli.watch_view import watch_at_terminal

    try:
        watch_at_terminal(run)
    except KeyboardInterrupt:
        typer.echo("")


def _as_page(run: Path, port: int) -> None:
    from airtune.watching.server import WatchServer

    server = WatchServer(run, port)
    try:
        typer.echo(f"{server.address} shows {run}. Ctrl-C ends the watching, not the run.")
        server.serve()
    except KeyboardInterrupt:
        typer.echo("")
    finally:
        server.close()
