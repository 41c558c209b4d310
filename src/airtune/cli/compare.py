"""`airtune compare`: the same cell, devices, data and seeds for several methods."""

import json as json_text
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airtune.cli.completing import arms
from airtune.cli.run import Parts, Quiet, Settings, refuse_beside

if TYPE_CHECKING:
    from airtune.comparison.definition import Comparison

EXIT_FAILED = 1


def compare(
    experiment: Annotated[
        Path | None,
        typer.Argument(
            metavar="[EXPERIMENT.yaml]",
            help="A comparison file (with arms), or an experiment; without one, built in.",
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Arms of the file, method names, or name:key=value+key=value.",
            autocompletion=arms,
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many seeds an arm; else the file's, or 1.")
    ] = None,
    target_loss: Annotated[
        float | None, typer.Option(help="Test loss to reach [nat]; else what the first arm does.")
    ] = None,
    target_share: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C", help="In its place: the share, or shares, of the first arm's descent."
        ),
    ] = None,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the comparison; else runs/compare-NAME.")
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="How many runs at once, a core each.")
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show each arm's first round as planned; no run.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print comparison.json only.")] = False,
    quiet: Quiet = False,
    parts: Parts = None,
) -> None:
    """Run several methods on the same cell, devices, data and seeds, and compare them.

    The same command again continues where it was interrupted; finished runs are kept.
    Exits with 1 if a run failed, and with 2 for bad input.
    """
    from airtune.comparison.definition import parse_methods, parse_shares, read_comparison
    from airtune.part_folders import beside_experiment, name_folders

    asked = read_comparison(
        experiment,
        parse_methods(methods),
        settings or (),
        seeds,
        target_loss,
        parse_shares(target_share),
    )
    folder = out or Path("runs") / _folder_name(experiment)
    beside_experiment(experiment)
    name_folders(parts or ())
    if dry_run:
        refuse_beside("--dry-run", {"--jobs": None if jobs == 1 else jobs, "--quiet": quiet})
        _dry_run(asked, folder, as_json=json)
        return
    numbers = _watched(asked, folder, jobs=jobs, as_json=json, quiet=quiet)
    if any("failure" in run for arm in numbers["arms"] for run in arm["runs"]):
        raise typer.Exit(EXIT_FAILED)


def _folder_name(experiment: Path | None) -> str:
    """The same for the same file, so that the same command continues."""
    name = experiment.stem if experiment else "builtin"
    return name if name.startswith("compare") else f"compare-{name}"


def _watched(
    asked: "Comparison", folder: Path, *, jobs: int, as_json: bool, quiet: bool
) -> dict[str, Any]:
    from rich.console import Console

    from airtune.cli.comparison_view import ComparisonProgress, print_result
    from airtune.comparison.results import write_results
    from airtune.comparison.runs import run_comparison

    # JSON goes to standard output alone, so that it can be piped.
    console = Console(file=sys.stderr) if as_json else Console(soft_wrap=True)
    console.quiet = quiet or as_json
    try:
        with ComparisonProgress(console, asked) as view:
            results = run_comparison(asked, folder, view, jobs)
        numbers = write_results(asked, results, folder)
    except KeyboardInterrupt:
        if folder.is_dir():
            sys.stderr.write(
                "\nInterrupted. Every finished round is kept; the same command continues from "
                f"there (runs in {folder}).\n"
            )
        raise
    if as_json:
        sys.stdout.write(json_text.dumps(numbers, indent=2) + "\n")
    elif not quiet:
        print_result(console, numbers, folder)
    return numbers


def _dry_run(asked: "Comparison", folder: Path, *, as_json: bool) -> None:
    from rich.console import Console

    from airtune.cli.comparison_view import print_previews
    from airtune.comparison.runs import check_comparison, preview_arms

    check_comparison(asked, folder)
    previews = preview_arms(asked)
    if as_json:
        sys.stdout.write(json_text.dumps(previews, indent=2) + "\n")
    else:
        print_previews(Console(soft_wrap=True), previews)
