"""`airtune sweep`: training runs, or plans, over a grid or a list of points."""

import json as json_text
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airtune.cli.run import Parts, Quiet, Settings, refuse_beside
from airtune.errors import InputError

if TYPE_CHECKING:
    from airtune.sweeping.definition import Sweep
    from airtune.sweeping.table import SweepResult

EXIT_FAILED, EXIT_INFEASIBLE = 1, 3


def sweep(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE.yaml] KEY=A,B,C",
            help="An experiment or a planning problem (without one, the built-in experiment), "
            "then the keys to sweep; every combination is a point.",
        ),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="Points as rows of a csv or YAML file."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many seeds a point; 1 by default.")
    ] = None,
    settings: Settings = None,
    solver: Annotated[
        str | None, typer.Option(metavar="NAME", help="A solver of the problem's method.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Plan each point: FILE is a planning problem.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the sweep; else runs/sweep-NAME.")
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="How many runs at once, a core each.")
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the points and the expected time; no run.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print sweep.json only.")] = False,
    quiet: Quiet = False,
    parts: Parts = None,
) -> None:
    """Run an experiment, or solve a problem, at every point of a grid or a list.

    The same command again, or `airtune resume FOLDER`, continues where it was interrupted. A point
    that is refused or infeasible is a row of the table. Exits with 1 if a run failed, with 2 for
    bad input, and with 3 if no point has a plan.
    """
    from airtune.part_folders import beside_experiment, name_folders
    from airtune.sweeping.axes import read_axes
    from airtune.sweeping.definition import define

    file, texts = split_arguments(arguments or [])
    axes = read_axes(texts, points)
    asked = define(file, axes, settings or (), seeds, solver, plan=plan)
    folder = out or Path("runs") / _folder_name(file)
    beside_experiment(file)
    name_folders(parts or ())
    if dry_run:
        refuse_beside("--dry-run", {"--quiet": quiet})
        _dry_run(asked, folder, jobs, as_json=json)
        return
    finish(run(asked, folder, jobs, as_json=json, quiet=quiet))


def split_arguments(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """The file, which comes first and has no `=` in its name, and the swept keys."""
    if arguments and ("=" not in arguments[0] or Path(arguments[0]).is_file()):
        file, texts = Path(arguments[0]), arguments[1:]
    else:
        file, texts = None, arguments
    for text in texts:
        if "=" not in text:
            remedy = f"{file} is the file already" if file else "put the file first"
            raise InputError("KEY=A,B,C", text, "a key and its values", remedy)
    return file, texts


def _folder_name(file: Path | None) -> str:
    """The same for the same file, so that the same command continues."""
    name = file.stem if file else "builtin"
    return name if name.startswith("sweep") else f"sweep-{name}"


def run(
    asked: "Sweep", folder: Path, jobs: int, *, as_json: bool = False, quiet: bool = False
) -> "SweepResult":
    """Run what is missing of a sweep, with its progress, and show the table."""
    from rich.console import Console

    from airtune.cli.sweep_view import SweepProgress, print_sweep
    from airtune.sweeping.call import run_sweep

    # JSON goes to standard output alone, so that it can be piped.
    console = Console(file=sys.stderr) if as_json else Console(soft_wrap=True)
    console.quiet = quiet or as_json
    try:
        with SweepProgress(console, len(asked.points) * asked.seeds) as view:
            result = run_sweep(asked, folder, view, jobs)
    except KeyboardInterrupt:
        if folder.is_dir():
            sys.stderr.write(
                "\nInterrupted. Every finished round is kept; the same command, or airtune resume "
                f"{quote(str(folder))}, continues from there.\n"
            )
        raise
    if as_json:
        sys.stdout.write(json_text.dumps(result.plain, indent=2) + "\n")
    elif not quiet:
        print_sweep(console, result)
    return result


def finish(result: "SweepResult") -> None:
    """The exit code of a sweep."""
    if result.failed:
        raise typer.Exit(EXIT_FAILED)
    if result.all_infeasible:
        raise typer.Exit(EXIT_INFEASIBLE)


def resume_sweep(
    folder: Path, given: dict[str, Any], *, jobs: int, as_json: bool, quiet: bool
) -> None:
    """`airtune resume` of the folder of a sweep; `given` are options that are for runs."""
    from airtune.sweeping.definition import read_definition

    refuse_beside("the folder of a sweep", given)
    finish(run(read_definition(folder), folder, jobs, as_json=as_json, quiet=quiet))


def _dry_run(asked: "Sweep", folder: Path, jobs: int, *, as_json: bool) -> None:
    from airtune.cli.sweep_view import print_points
    from airtune.sweeping.preview import preview_sweep

    preview = preview_sweep(asked, folder, jobs)
    if as_json:
        sys.stdout.write(json_text.dumps(preview, indent=2) + "\n")
    else:
        print_points(preview)
