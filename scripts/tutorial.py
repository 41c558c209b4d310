"""Run every command of the tutorial as it is printed, in order, in a folder.

    python scripts/tutorial.py FOLDER [PAGE]

Blocks of the page: `sh` has commands; `python` and `yaml` begin with `# NAME`, the file that they
are; `output` is what the commands before it print, where `...` stands for lines left out. Stops at
the first command that fails, and where a printed line is not in its output, but for numbers.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"
_BLOCK = re.compile(r"^```(sh|python|yaml|output)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"[-+]?\d[\d.,:]*")
_WRITTEN = ("before ", "after ")
"""Lines that a model writes, which may differ with the processor."""


@dataclass(frozen=True)
class Step:
    """A block of the page."""

    line: int
    kind: str
    text: str

    @property
    def file(self) -> str:
        """The file that a `python` or `yaml` block is."""
        return self.text.partition("\n")[0].removeprefix("#").strip()

    @property
    def commands(self) -> list[str]:
        """The commands of a `sh` block."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]


def steps(page: str) -> Iterator[Step]:
    """The blocks of a page, in order."""
    for found in _BLOCK.finditer(page):
        yield Step(page[: found.start()].count("\n") + 1, found[1], found[2])


def missing_lines(expected: str, printed: str) -> list[str]:
    """Lines of an `output` block that were not printed, in whatever numbers."""
    known = {_shape(line) for line in printed.splitlines()}
    wanted = [line for line in expected.splitlines() if line.strip() not in ("", "...")]
    return [line for line in wanted if _shape(line) not in known]


def _shape(line: str) -> str:
    """A line without its numbers and without the widths of its columns."""
    for word in _WRITTEN:
        if line.startswith(word):
            return word
    return " ".join(_NUMBER.sub("#", line).split())


def run(command: str, folder: Path) -> tuple[int, str]:
    """Run a command in a folder; its exit code and what it printed, which is shown as it comes."""
    # `airtune` and `python` are those of this interpreter.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        printed += line
    return process.wait(), printed


def follow(page: Path, folder: Path) -> int:
    """Take every step of the page; the exit code of the first command that fails, or 0."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        print(f"{folder} is not empty: name a new folder", file=sys.stderr)
        return 2
    printed = ""
    for step in steps(page.read_text()):
        if step.kind == "output":
            if missing := missing_lines(step.text, printed):
                print(f"{page.name}:{step.line}: not printed: {missing[0]}", file=sys.stderr)
                return 1
        elif step.kind == "sh":
            printed = ""
            for command in step.commands:
                print(f"$ {command}", flush=True)
                code, text = run(command, folder)
                printed += text
                if code:
                    where = f"{page.name}:{step.line}"
                    print(f"{where}: exit code {code}: {command}", file=sys.stderr)
                    return code
        else:
            (folder / step.file).write_text(step.text)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Run every command of the tutorial.")
    parser.add_argument("folder", type=Path, help="an empty or new folder")
    parser.add_argument("page", type=Path, nargs="?", default=PAGE, help="docs/tutorial.md")
    arguments = parser.parse_args()
    return follow(arguments.page, arguments.folder)


if __name__ == "__main__":
    raise SystemExit(main())
