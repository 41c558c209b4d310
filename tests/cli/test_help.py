"""Help texts: whole, without stray marks, for every command."""

from collections.abc import Callable, Iterator

import click
import pytest
import typer

from airtune.cli.main import app

Call = Callable[..., tuple[int, str, str]]
ROOT = typer.main.get_command(app)


def _paths(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from _paths(below, (*path, name))


PATHS = list(_paths(ROOT))


@pytest.mark.parametrize("path", PATHS, ids=["-".join(path) or "airtune" for path in PATHS])
def test_help_is_whole_and_clean(
    path: tuple[str, ...], airtune: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = airtune(*path, "--help")
    assert (code, err) == (0, "")
    assert "\\" not in out
    assert "..." not in out.replace("[ARGS]...", "")
    assert max(map(len, out.splitlines())) <= 80
    words = " ".join(out.split())
    command = ROOT
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in words


def test_arguments_say_what_they_are(airtune: Call) -> None:
    assert "RUN_DIR  The folder of a run or a sweep.  [required]" in airtune("resume", "--help")[1]
    assert "without one, built in." in airtune("run", "--help")[1]
