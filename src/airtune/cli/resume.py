"""`airtune resume`: a run or a sweep goes on."""

from pathlib import Path
from typing import Annotated

import typer

from airtune.cli.run import AcceptChanges, Json, Parts, Quiet, Settings, refuse_beside
from airtune.errors import InputError


def resume(
    run_dir: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run or a sweep.")
    ],
    rounds: Annotated[
        str | None,
        typer.Option(
            metavar="N|+N",
            help="N: until N rounds are done in all. +N: N rounds more than were planned.",
        ),
    ] = None,
    settings: Settings = None,
    accept_changes: AcceptChanges = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Of a sweep: how many runs at once.")
    ] = 1,
    parts: Parts = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Continue an interrupted run or sweep, or make a finished run longer."""
    from airtune.part_folders import name_folders

    name_folders(parts or ())
    if (run_dir / "sweep.yaml").is_file():
        from airtune.cli.sweep import resume_sweep

        given = {"--rounds": rounds, "--set": " ".join(settings or ()) or None}
        given["--accept-changes"] = "given" if accept_changes else None
        resume_sweep(run_dir, given, jobs=jobs, as_json=json, quiet=quiet)
        return
    from airtune.cli.terminal import resume_run

    refuse_beside("the folder of one run", {"--jobs": None if jobs == 1 else jobs})
    more, until = parse_rounds(rounds)
    resume_run(
        run_dir,
        more_rounds=more,
        rounds=until,
        settings=settings or (),
        accept_changes=accept_changes,
        as_json=json,
        quiet=quiet,
    )


def parse_rounds(rounds: str | None) -> tuple[int, int | None]:
    """`+5` as five more, `5` as five in all: (more, in all)."""
    if rounds is None:
        return 0, None
    digits = rounds.removeprefix("+")
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 9 or int(digits) < 1:
        raise InputError(
            "--rounds",
            rounds,
            "a positive whole number",
            "give 50 for fifty rounds in all, or +50 for fifty more",
        )
    return (int(digits), None) if rounds.startswith("+") else (0, int(digits))
