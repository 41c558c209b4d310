"""Imports flow downward only, and the light part of airtune never pulls in torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import airtune
from airtune.methods.plan import FROM_CELL, METHODS

ROOT = Path(airtune.__file__).parent
LEVEL = {
    "errors": 0, "foreign": 0, "redaction": 0, "quantities": 0, "seeds": 0, "files": 0,
    "csv_table": 0, "usual": 0,
    "wireless": 1, "workload": 1, "data": 1,
    "round_plan": 2,
    "cost": 3, "tuning": 3, "update": 3,
    "allocation": 4,
    "planning": 5, "federated": 5, "config": 5,
    "methods": 6, "report": 6,
    "experiment": 7,
    "comparison": 8,
    "cli": 9,
}  # fmt: skip
TORCH_FREE = [
    "foreign", "quantities", "seeds", "files", "csv_table", "usual", "wireless", "workload",
    "round_plan", "cost", "allocation", "data", "planning",
]  # fmt: skip
BANNED_NAMES = {"utils", "helpers", "manager", "common", "core", "misc"}


def _modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path.name != "__main__.py")


def _imports(path: Path) -> set[str]:
    """Every airtune module that a file imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.startswith("airtune.")}


def _part(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    part = _part(path)
    if part == "__init__":
        pytest.skip("the package's front door names every public part")
    for name in _imports(path):
        target = name.split(".")[1]
        if target in LEVEL and target != part:
            assert LEVEL[target] <= LEVEL[part], f"{path.name} [{LEVEL[part]}] imports {name}"


def test_no_cycles_between_parts() -> None:
    graph: dict[str, set[str]] = {}
    for path in _modules():
        if _part(path) != "__init__":
            targets = {name.split(".")[1] for name in _imports(path)} & set(LEVEL)
            graph.setdefault(_part(path), set()).update(targets - {_part(path)})

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        frontier = list(graph.get(start, ()))
        while frontier:
            part = frontier.pop()
            if part not in seen:
                seen.add(part)
                frontier += graph.get(part, ())
        return seen

    assert [part for part in graph if part in reachable(part)] == []


def test_names_say_something() -> None:
    for path in _modules():
        assert not {*path.relative_to(ROOT).with_suffix("").parts} & BANNED_NAMES, path
        assert _part(path) == "__init__" or _part(path) in LEVEL, f"{path} has no level"


@pytest.mark.parametrize("part", TORCH_FREE)
def test_light_parts_import_without_torch(part: str) -> None:
    names = [
        "airtune." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in _modules()
        if _part(path) == part
    ]
    names = [name.removesuffix(".__init__") for name in names]
    if part == "planning":  # the problems of the methods, too
        names += ["airtune.methods.plan", *METHODS.values(), *FROM_CELL.values()]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
