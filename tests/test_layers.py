"""The order of the house, in one walk over its modules: their imports, names and sizes."""

import ast
import re
import subprocess
import sys
from collections.abc import Mapping, Set
from functools import cache
from pathlib import Path

import airtune
from airtune.config.experiment import ExperimentConfig
from airtune.methods.registry import problem_specs, shipped_methods

ROOT = Path(airtune.__file__).parent
LEVELS = (
    (
        "errors",
        "quantities",
        "seeds",
        "suggest",
        "files",
        "ranges",
        "section",
        "csv_table",
        "round_plan",
        "part_folders",
        "folder_lock",
        "user_parts",
        "shipped",
    ),
    ("wireless", "workload", "data"),
    ("cost", "tuning", "update"),
    ("allocation",),
    ("planning", "federated", "config"),
    ("methods",),
    ("experiment", "report", "trackers"),
    ("comparison", "deploy", "jobs", "sweeping", "validation", "watching"),
    ("advising",),
    ("schemas",),
    ("cli",),
)
"""Top-level parts from the lowest up. A part imports from its own level and from lower ones."""
LIGHT = {*LEVELS[0], *LEVELS[1], "cost", "allocation", "planning"}
"""Parts that import without torch, like the planning problems of the methods."""
RUNS_MODELS = {f"airtune.workload.counting.{name}" for name in ("module", "operations", "counter")}
"""Of the light parts, what needs torch; imported only where a model without closed form is met."""
DRAWS = {"airtune.wireless.group_draws"}
"""Imported only where a cell draws with Sionna, which needs torch itself."""
LIGHT_IN_METHODS = {"plan", "problem", "problem_file", "from_cell"}
BANNED_NAMES = {"utils", "helpers", "manager", "common", "core", "misc"}
MOST_LINES = 400
DEFAULT_METHOD = ExperimentConfig().method

Graph = Mapping[str, Set[str]]


@cache
def _modules() -> dict[str, Path]:
    """Every module by its dotted name; the front door and `python -m airtune` import anything."""
    paths = sorted(ROOT.rglob("*.py"))
    names = {
        ".".join(("airtune", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in paths
    }
    return {n: path for n, path in names.items() if n not in ("airtune", "airtune.__main__")}


def _named(node: ast.AST) -> Set[str]:
    """What a node imports, at the top of a module or inside a function, or names in a string."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"write absolute imports: {ast.unparse(node)}"
        assert node.module is not None
        return {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value.partition(":")[0]}
    return set()


@cache
def _imports() -> Graph:
    """The modules of airtune that each module names; its own package is not one of them."""
    return {
        name: {
            target
            for node in ast.walk(ast.parse(path.read_text()))
            for target in _named(node)
            if target in _modules() and not f"{name}.".startswith(f"{target}.")
        }
        for name, path in _modules().items()
    }


def _part(module: str) -> str:
    return module.split(".")[1]


def _on_cycles(graph: Graph) -> list[str]:
    """What is left when everything is taken away that depends on nothing that is left."""
    left = dict(graph)
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_no_cycle_between_modules() -> None:
    assert _on_cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert _on_cycles(_imports()) == []


def test_no_cycle_between_parts() -> None:
    parts: dict[str, set[str]] = {}
    for name, targets in _imports().items():
        others = {_part(target) for target in targets} - {_part(name)}
        parts.setdefault(_part(name), set()).update(others)
    assert _on_cycles(parts) == []


def test_imports_go_down() -> None:
    level = {part: height for height, parts in enumerate(LEVELS) for part in parts}
    assert {_part(name) for name in _modules()} == set(level)
    upward = [
        f"{name} imports {target}"
        for name, targets in _imports().items()
        for target in targets
        if level[_part(target)] > level[_part(name)]
    ]
    assert upward == []


def test_names_say_something() -> None:
    assert [name for name in _modules() if set(name.split(".")) & BANNED_NAMES] == []


def test_methods_are_named_in_their_folders_alone() -> None:
    """Besides the registry, and the default of `method`."""
    names = {spec.name for spec in shipped_methods().values()} | set(problem_specs())
    pattern = re.compile(rf"\b({'|'.join(names)})\b")
    homes = {f"airtune.methods.{spec.name}" for spec in shipped_methods().values()}
    found = {
        name: pattern.findall(path.read_text())
        for name, path in _modules().items()
        if not any(f"{name}.".startswith(f"{home}.") for home in homes)
    }
    assert found.pop("airtune.config.experiment") == [DEFAULT_METHOD]
    del found["airtune.methods.registry"]
    assert {name: words for name, words in found.items() if words} == {}


def test_no_module_is_long() -> None:
    lines = {name: path.read_text().count("\n") for name, path in _modules().items()}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_light_parts_import_without_torch() -> None:
    names = [
        name
        for name in _modules()
        if (_part(name) in LIGHT and name not in RUNS_MODELS | DRAWS)
        or (_part(name) == "methods" and name.rpartition(".")[2] in LIGHT_IN_METHODS)
    ]
    assert len(names) > 50
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(f'{name} imports torch')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
