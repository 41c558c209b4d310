"""The drawn map, the table and the paths of docs/architecture.md are those of the code."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import airtune

ROOT = Path(airtune.__file__).parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
pytestmark = pytest.mark.skipif(
    not DOCUMENT.is_file(), reason="airtune is installed without its documents"
)


@pytest.fixture(scope="module")
def house_map() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house_map", ROOT / "scripts" / "house_map.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_up_to_date(house_map: ModuleType) -> None:
    for path, text in house_map.contents().items():
        assert path.read_text() == text, "out of date: python scripts/house_map.py"


def test_arrows_that_follow_from_others_are_left_out(house_map: ModuleType) -> None:
    graph = {"a": frozenset("bc"), "b": frozenset("c"), "c": frozenset()}
    assert house_map.reduced(graph) == {**graph, "a": frozenset("b")}
    assert house_map.levels(graph) == {"a": 2, "b": 1, "c": 0}
    for upper, targets in graph.items():
        for lower in targets:
            assert lower in house_map.reachable(house_map.reduced(graph), upper)


def test_every_package_is_drawn_once(house_map: ModuleType) -> None:
    text = house_map.drawing(house_map.import_graph())
    for name in house_map.packages():
        assert text.count(f">{name}</text>") == 1


def test_paths_of_the_document_exist() -> None:
    text = DOCUMENT.read_text()
    paths = re.findall(r"`([\w/<>]+/[\w<>]*(?:\.py)?)`", text)
    assert len(paths) > 30
    for path in paths:
        if "<" not in path:
            assert any((root / path).exists() for root in (ROOT, ROOT / "src" / "airtune")), path
