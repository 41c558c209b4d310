"""What a run has learned: `airtune eval`, `generate`, `export` and `airtune model export`."""

from pathlib import Path
from typing import Annotated

import typer

from airtune.cli.command import FullGroup, OnceCommand
from airtune.cli.run import AcceptChanges, Parts, refuse_beside
from airtune.cli.text import facts, page_width
from airtune.errors import InputError
from airtune.files import filled_whole

RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of the run.")]


def evaluate(
    run_dir: RunDir,
    accept_changes: AcceptChanges = False,
    parts: Parts = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Test loss, perplexity and the task's own score of the tuned and of the base model."""
    from airtune.experiment import Run
    from airtune.part_folders import name_folders
    from airtune.planning.answer import finite

    name_folders(parts or ())
    result = Run.open(run_dir, accept_changes=accept_changes).evaluate()
    if json:
        from json import dumps

        # JSON has no infinity: a perplexity beyond any float is null.
        shown = {
            name: {
                key: finite(value) if isinstance(value, float) else value
                for key, value in part.items()
            }
            for name, part in result.items()
        }
        typer.echo(dumps(shown, indent=2, allow_nan=False))
        return
    for name in ("base", "tuned"):
        part = result[name]
        scores = "".join(f", {key} {value:.1%}" for key, value in part["scores"].items())
        typer.echo(
            f"{name:>5}: test loss {part['test_loss']:.4f} nat a token, "
            f"perplexity {part['perplexity']:.3f}{scores}"
        )


def generate(
    run_dir: RunDir,
    prompt: Annotated[
        str | None, typer.Option(help="Continue this prompt; without it, test prompts.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="How many test prompts.", show_default="3")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 96,
    accept_changes: AcceptChanges = False,
    parts: Parts = None,
) -> None:
    """Show what the base and the tuned model write."""
    from airtune.experiment import Run
    from airtune.part_folders import name_folders

    name_folders(parts or ())
    if prompt is not None:
        refuse_beside("--prompt", {"--count": count})
    run = Run.open(run_dir, accept_changes=accept_changes)
    for sample in run.generate(prompt, count or 3, max_new_tokens):
        texts = [(key, " ".join(text.split()) or "(nothing)") for key, text in sample.items()]
        typer.echo(facts(texts, page_width()) + "\n")


def push(
    run_dir: RunDir,
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the hub.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository a private one.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Another branch than main.")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="Licence in the card, e.g. apache-2.0."),
    ] = None,
) -> None:
    """Upload a finished run's adapter (or tuned model) with its card to the Hugging Face hub."""
    from airtune.experiment import Run
    from airtune.experiment.pushing import Target, push

    target = Target(name, private, revision, licence)
    address, files = push(Run.open(run_dir), target)
    typer.echo(f"Uploaded {', '.join(files)}:\n{address}")


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
    from airtune.experiment.trained import FULL, precision_of
    from airtune.part_folders import name_folders

    name_folders(parts or ())
    _check_free(folder)
    run = Run.open(run_dir, accept_changes=accept_changes)
    run.export(folder, merge=merge)
    what = "the merged model" if merge else "the adapter"
    if run.config.adapter.kind == FULL:
        what = "the tuned model"
    typer.echo(f"Wrote {what} to {folder}.")
    precision = precision_of(run.config)
    if merge and precision.is_quantised:
        typer.echo(
            f"Its weights are {precision.compute_dtype}: those of the {precision.dtype} base, "
            "dequantised, with the adapter added."
        )


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
