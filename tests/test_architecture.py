"""The walk through a round in docs/architecture.md names what its files define."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import airtune

ROOT = Path(airtune.__file__).parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
SOURCE = ROOT / "src" / "airtune"
pytestmark = pytest.mark.skipif(
    not DOCUMENT.is_file(), reason="airtune is installed without its documents"
)
EVERY_NAME = re.compile(r"^\s*(?:class|def)\s+(\w+)", re.M)


def steps() -> Iterator[tuple[list[str], list[str]]]:
    """Of each numbered row: the files it names, and the names that it says are in the code."""
    text = DOCUMENT.read_text().split("## One round, file by file")[1].split("\n## ")[0]
    for _, files, sentence in re.findall(r"^\| (\d+) \| (.+?) \| (.+) \|$", text, re.M):
        words = re.findall(r"`([^`]+)`", sentence)
        yield (
            re.findall(r"`([\w/]+\.py)`", f"{files} {sentence}"),
            [
                word
                for word in words
                if re.fullmatch(r"[A-Za-z_][\w.]*", word) and ".py" not in word
            ],
        )


def test_every_step_names_files_that_are_there() -> None:
    found = list(steps())
    assert len(found) >= 16
    for files, _ in found:
        assert files
        assert all((SOURCE / name).is_file() for name in files), files


def test_every_name_of_a_step_is_defined_in_the_code() -> None:
    defined = {
        name for path in SOURCE.rglob("*.py") for name in EVERY_NAME.findall(path.read_text())
    }
    words = {part for _, names in steps() for name in names for part in name.split(".")}
    unknown = words - defined - {"rounds", "jsonl"}
    assert not unknown, f"docs/architecture.md names {sorted(unknown)}, which the code has not"
    assert {"run_round", "FactorMean"} <= words
