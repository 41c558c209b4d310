"""`airtune export` and `airtune model export`: standard Hugging Face folders out."""

from pathlib import Path
from typing import Annotated

import typer

from airtune.cli.command import FullGroup, OnceCommand
from airtune.cli.run import AcceptChanges, Parts
from airtune.errors import InputError
from airtune.files import filled_whole

model_app = typer.Typer(
    cls=FullGroup, help="The built-in model.", no_args_is_help=True, rich_markup_mode=None
)


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("DIR", str(folder), "a new or empty folder", "choose another name")


def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of the run.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the whole model with the adapter merged in.")
    ] = False,
    accept_changes: AcceptChanges = False,
    parts: Parts = None,
) -> None:
    """Write a run's adapter (PEFT), or the tuned model (--merge, full tuning), to a folder."""
    from airtune.experiment import Run
    from airtune.experiment.part_folders import name_folders
    from airtune.experiment.trained import FULL

    name_folders(parts or ())
    _check_free(folder)
    run = Run.open(run_dir, accept_changes=accept_changes)
    run.export(folder, merge=merge)
    what = "the merged model" if merge else "the adapter"
    if run.config.adapter.kind == FULL:
        what = "the tuned model"
    typer.echo(f"Wrote {what} to {folder}.")


@model_app.command("export", cls=OnceCommand)
def export_model(
    name: Annotated[str, typer.Argument(help="Which model; only `builtin` ships with airtune.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write.")],
) -> None:
    """Copy the built-in model to a folder that AutoModelForCausalLM loads."""
    import shutil

    from airtune.tuning.base_model import BUILTIN, model_location

    if name != BUILTIN:
        raise InputError("NAME", name, f"{BUILTIN!r}", "other models are on the hub already")
    _check_free(folder)
    with filled_whole("DIR", folder) as place:
        shutil.copytree(model_location(BUILTIN), place, dirs_exist_ok=True)
    typer.echo(f"Wrote the built-in model to {folder}.")
