"""`airtune run`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from airtune.errors import InputError

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. cell.bandwidth_hz=5e6."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON, nothing else.")]
Parts = Annotated[
    list[Path] | None,
    typer.Option("--parts", metavar="FOLDER", help="A folder with user-defined parts."),
]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes", help="Continue although data, weights, keys or other contents changed."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def run(
    experiment: Annotated[
        Path | None,
        typer.Argument(metavar="[EXPERIMENT.yaml]", help="The experiment; without one, built in."),
    ] = None,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; without it, the next free runs/NNN.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show cell, shards, memory and first plan; no run.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where the real seconds of a round went.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    parts: Parts = None,
) -> None:
    """Fine-tune a language model over simulated wireless clients."""
    from airtune.cli.terminal import dry_run as show_dry_run
    from airtune.cli.terminal import run_experiment, show_profile
    from airtune.experiment import Experiment
    from airtune.part_folders import name_folders

    name_folders(parts or ())
    job = Experiment.load(experiment, settings or ())
    if dry_run:
        refuse_beside("--dry-run", {"--out": out, "--profile": profile, "--quiet": quiet})
        show_dry_run(job, as_json=json)
        return
    with nullcontext(out) if out else next_free_folder(Path("runs")) as folder:
        run_experiment(job, folder, as_json=json, quiet=quiet)
    if profile:
        show_profile(folder, to_stderr=json or quiet)


def refuse_beside(option: str, others: Mapping[str, Any]) -> None:
    """Refuse options, by name, that do nothing beside another."""
    for name, value in others.items():
        if value not in (None, False):
            shown = "given" if value is True else str(value)
            raise InputError(name, shown, f"left out beside {option}", "it would have no effect")


@contextmanager
def next_free_folder(parent: Path) -> Iterator[Path]:
    """`runs/001`, `runs/002`, … the first that does not exist, claimed for this run.

    It is removed again where nothing was put into it.
    """
    new = not parent.exists()
    number = 1
    while True:
        folder = parent / f"{number:03d}"
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            if not parent.is_dir():
                raise InputError("--out", str(parent), "a folder", "give --out") from None
            number += 1
        except OSError as error:
            raise InputError(
                "--out", f"{folder} ({error.strerror})", "a folder that can be made"
            ) from None
    try:
        yield folder
    finally:
        for empty in (folder, *([parent] if new else [])):
            with suppress(OSError):
                empty.rmdir()
