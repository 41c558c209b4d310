"""The licence stands beside the built-in weights, and goes along with them."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from tests.cli.conftest import airtune

__all__ = ["airtune"]

ROOT = Path(__file__).parents[1]


def test_the_weights_have_the_licence_of_the_project(airtune: Any, tmp_path: Path) -> None:
    own = (ROOT / "LICENSE").read_text()
    assert own.startswith("MIT License")
    assert (files("airtune") / "builtin_model" / "LICENSE").read_text() == own
    assert airtune("model", "export", "builtin", "copy")[0] == 0
    assert (tmp_path / "copy" / "LICENSE").read_text() == own
