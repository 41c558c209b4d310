"""`airtune eval` and `airtune generate`: what a run has learned."""

from pathlib import Path
from typing import Annotated

import typer

from airtune.cli.run import AcceptChanges, Parts, refuse_beside
from airtune.cli.text_table import facts, page_width

RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of the run.")]


def evaluate(
    run_dir: RunDir,
    accept_changes: AcceptChanges = False,
    parts: Parts = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Test loss, perplexity and the task's own score of the tuned and of the base model."""
    from airtune.experiment import Run
    from airtune.experiment.part_folders import name_folders

    name_folders(parts or ())
    result = Run.open(run_dir, accept_changes=accept_changes).evaluate()
    if json:
        from json import dumps

        typer.echo(dumps(result, indent=2))
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
    from airtune.experiment.part_folders import name_folders

    name_folders(parts or ())
    if prompt is not None:
        refuse_beside("--prompt", {"--count": count})
    run = Run.open(run_dir, accept_changes=accept_changes)
    for sample in run.generate(prompt, count or 3, max_new_tokens):
        texts = [(key, " ".join(text.split()) or "(nothing)") for key, text in sample.items()]
        typer.echo(facts(texts, page_width()) + "\n")
