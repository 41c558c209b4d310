"""Every block of code in the documents: run, read, or checked word by word; none is left out."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import typer

import airtune
from airtune.cli.main import app
from airtune.comparison.definition import read_comparison
from airtune.cost.device import load_devices
from airtune.experiment.reading import read_config
from airtune.experiment.unused import refuse_unused
from airtune.files import parse_yaml
from airtune.methods.plan import load_problem
from airtune.sweeping.axes import read_list
from airtune.wireless.cell import CellSettings
from tests.test_schemas import wrong

ROOT = Path(airtune.__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "README.md").is_file(), reason="airtune is installed without its documents"
)
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OUTPUT = {"README.md": "round  virtual time", "advise.md": "llama-3.1-8b (in place"}
"""Blocks that show what a command prints, by their first words."""
FLOWER = {"flwr", "flower-superlink", "flower-supernode", "export"}
"""Programs of Flower's, which is not installed here: tests/deploy/test_flower_run.py runs them."""
ELSEWHERE = {
    "own-parts.md": "tests/test_docs.py runs the planner of one's own with its experiment",
    "README.md": "tests/test_docs.py runs it",
    "tutorial.md": "tests/test_tutorial.py runs it",
}
"""Python and YAML blocks that another test runs."""
FOUND = {"git", "head"}
"""Programs of every system that a page may use."""


class Block(NamedTuple):
    path: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.name}-{self.line}"


def _blocks() -> Iterator[Block]:
    for path in DOCUMENTS:
        if not path.is_file():
            continue
        text = path.read_text()
        for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            yield Block(path, text[: found.start()].count("\n") + 1, found[1], found[2])


BLOCKS = list(_blocks())


def _of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert len(BLOCKS) > 25
    assert {block.language for block in BLOCKS} <= {"", "sh", "python", "yaml", "ini", "output"}


LONG = {"figures.md", "sweep.md"}
"""Documents whose Python blocks train several runs."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in LONG else name
        for name in sorted({block.path.name for block in _of("python")})
    ],
)
def test_python(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document's blocks run one after another, as a reader would type them."""
    if name in ELSEWHERE:
        pytest.skip(ELSEWHERE[name])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    names: dict[str, Any] = {}
    for block in _of("python"):
        if block.path.name == name:
            exec(compile(block.text, str(block), "exec"), names)


@pytest.mark.parametrize("block", _of("yaml"), ids=str)
def test_yaml(block: Block, tmp_path: Path) -> None:
    if block.path.name in ELSEWHERE:
        pytest.skip(ELSEWHERE[block.path.name])
    (tmp_path / "block.yaml").write_text(block.text)
    content = parse_yaml(block.text, str(block))
    if isinstance(content, list):  # points of a sweep
        assert len(read_list(tmp_path / "block.yaml")) > 1
    elif "services" in content:  # of containers; `_commands` has what they run
        assert set(content) == {"services"}
        assert all({"image", "command"} <= set(service) for service in content["services"].values())
    elif "arms" in content:
        assert wrong("comparison", content) == []
        assert len(read_comparison(tmp_path / "block.yaml").arms) > 1
    elif "method" in content:
        assert wrong("problem", content) == []
        assert airtune.plan(load_problem(tmp_path / "block.yaml")).answer["status"] == "optimal"  # type: ignore[union-attr]
    elif "cell" in content:
        assert wrong("experiment", content) == []
        CellSettings(**content["cell"])
    else:
        assert wrong("device", content) == []
        assert load_devices(tmp_path / "block.yaml").keys() > load_devices().keys()


_RUN = re.compile(r"(?:^ExecStart=\S+ |^ +)(airtune .*?)\"?$", re.MULTILINE)


def _commands() -> Iterator[tuple[Block, str]]:
    for block in _of("", "sh"):
        if not block.text.startswith(OUTPUT.get(block.path.name, "\0")):
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.strip() and not line.startswith("#"):
                    yield block, line.strip()
    for block in _of("ini", "yaml"):
        # Units and containers: the command behind its path, or at the end of a shell's.
        for found in re.finditer(
            r"(?:^ExecStart=\S+/|^ +)(airtune .*?)\"?$", block.text, re.MULTILINE
        ):
            yield block, found[1]


@pytest.mark.parametrize(
    ("block", "line"),
    list(_commands()),
    ids=[f"{block}: {line[:50]}" for block, line in _commands()],
)
def test_command(block: Block, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options are those of the command, its keys are keys, its files are there."""
    monkeypatch.setenv("AIRTUNE_DATA", "/nowhere")
    words = shlex.split(line.partition(" > ")[0], comments=True)
    while words and "=" in words[0]:
        words = words[1:]
    if words[:2] == ["docker", "run"]:
        words = words[words.index("airtune") :]  # the image, whose entry is the command
    program, *arguments = words
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "pip":
        extras = re.findall(r"airtune\[(\w+)\]", line)
        known = (ROOT / "pyproject.toml").read_text()
        assert all(f"\n{extra} = [" in known for extra in extras)
        assert "-c" not in arguments or (ROOT / arguments[arguments.index("-c") + 1]).is_file()
    elif program == "python":
        files = {other.text.partition("\n")[0] for other in BLOCKS if other.path == block.path}
        assert (ROOT / arguments[0]).is_file() or f"# {arguments[0]}" in files
    elif program in FOUND:
        assert arguments
    elif program == "docker":
        assert arguments == ["build", "-t", "airtune", "."]
        assert (ROOT / "Dockerfile").is_file()
    elif block.path.name == "deploy-flower.md" and program in FLOWER:
        assert set(re.findall(r"--[a-z-]+", line)) <= flower_options()
    else:
        assert program == "airtune", f"{block}: {line}"
        _check_airtune(arguments)


def flower_options() -> set[str]:
    """Those that the test starts Flower's programs with."""
    text = (ROOT / "tests" / "deploy" / "flower_fleet.py").read_text()
    return set(re.findall(r"\"(--[a-z-]+)\"", text))


def _check_airtune(arguments: list[str]) -> None:
    command = typer.main.get_command(app)
    while isinstance(command, click.Group):
        command = command.commands[arguments[0]]
        arguments = arguments[1:]
    # Parses and checks every option; nothing is run.
    given = command.make_context(str(command.name), list(arguments)).params
    for value in given.values():
        if str(value).startswith(("experiments/", "examples/")):
            assert (ROOT / str(value)).is_file()
    experiment = str(given.get("experiment"))
    shipped = experiment.startswith("experiments/")
    settings = given.get("settings") or ()
    if command.name in ("run", "channel") and not any("replay=" in s for s in settings):
        refuse_unused(read_config(ROOT / experiment if shipped else None, settings))
