"""`airtune init`: files to start from."""

import re
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from airtune.cli.completing import experiments, problems
from airtune.errors import AirtuneError, InputError

COMPARISON = "compare-builtin"
_DEVICES = re.compile(r"experiments/(devices/[\w-]+\.yaml)")


def init(
    path: Annotated[
        Path | None,
        typer.Argument(help="The file to write.", show_default="experiment.yaml, or the name"),
    ] = None,
    problem: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="An example problem for `airtune plan`; TAB lists them.",
            autocompletion=problems,
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="The comparison of methods on the built-in model.")
    ] = False,
    experiment: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="An experiment that ships with airtune; TAB lists them.",
            autocompletion=experiments,
        ),
    ] = None,
) -> None:
    """Write a file to start from: an experiment with every key, or one that ships with airtune."""
    _refuse_two(problem, compare, experiment)
    if problem is not None:
        _write_shipped("examples", problem, "--problem", path or Path(f"{problem}.yaml"))
    elif compare:
        _write_shipped("experiments", COMPARISON, "--compare", path or Path("comparison.yaml"))
    elif experiment is not None:
        target = path or Path(f"{experiment}.yaml")
        _write_shipped("experiments", experiment, "--experiment", target)
    else:
        from airtune.config.text import commented
        from airtune.experiment.reading import default_experiment

        target = path or Path("experiment.yaml")
        _write_new(target, lambda: commented(default_experiment()))
        typer.echo(f"Wrote {target}. Change what you like, then: airtune run {quote(str(target))}")


def _refuse_two(problem: str | None, compare: bool, experiment: str | None) -> None:
    given = {"--problem": problem, "--compare": compare or None, "--experiment": experiment}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise InputError(names[1], "given", f"left out beside {names[0]}", "one file at a time")


def _write_shipped(kind: str, name: str, option: str, path: Path) -> None:
    from airtune.shipped import shipped_text

    # Its head names the commands that read it, by the place where it is now.
    text = shipped_text(kind, name, option).replace(f"{kind}/{name}.yaml", quote(str(path)))
    _write_new(path, lambda: text)
    command = re.search(r"^#\s*((?:\w+=\S+ )*airtune \w+ .*)$", text, re.MULTILINE)
    then = f" Change what you like, then: {command[1]}" if command else ""
    typer.echo(f"Wrote {path}.{then}")
    for devices in dict.fromkeys(_DEVICES.findall(text)):
        _write_devices(devices)


def _write_devices(name: str) -> None:
    """A file of device profiles that an experiment names, where it is looked for."""
    from airtune.files import make_folder
    from airtune.shipped import shipped_text

    path = Path("experiments") / name
    if path.exists():
        return
    make_folder("PATH", path.parent)
    text = shipped_text("experiments/devices", path.stem, "--experiment")
    _write_new(path, lambda: text)
    typer.echo(f"Wrote {path}, whose device profiles it names.")


def _write_new(path: Path, text: Callable[[], str]) -> None:
    """Write a file that is not there yet."""
    from airtune.files import write_text_atomic

    if path.exists():
        raise AirtuneError(f"{path} exists already: give another name, or remove it first.")
    write_text_atomic(path, text())
