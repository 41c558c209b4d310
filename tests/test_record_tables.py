"""The tables of records in the documents are those of the definition, and all of it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import airtune
from airtune.config.text import flat, plain_values
from airtune.experiment.reading import default_experiment

ROOT = Path(airtune.__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "scripts").is_dir(), reason="airtune is installed without its documents"
)


@pytest.fixture(scope="module")
def record_tables() -> ModuleType:
    path = ROOT / "scripts" / "record_tables.py"
    spec = importlib.util.spec_from_file_location("record_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_documents_are_up_to_date(record_tables: ModuleType) -> None:
    for path, text in record_tables.documents():
        assert path.read_text() == text, "out of date: python scripts/record_tables.py"


def test_every_key_of_an_experiment_has_a_row() -> None:
    text = (ROOT / "docs" / "keys.md").read_text()
    missing = [
        key for key, _ in flat(plain_values(default_experiment())) if f"\n| `{key}` | " not in text
    ]
    assert missing == []


def test_every_field_is_documented_once_with_a_meaning(record_tables: ModuleType) -> None:
    texts = [path.read_text() for path, _ in record_tables.documents()]
    places = [
        found[3]
        for text in texts
        for found in record_tables.PLACE.finditer(text)
        if found[2] == "record"
    ]
    assert sorted(places) == sorted(record_tables.tables())
    for rows in record_tables.tables().values():
        assert all(meaning for _, _, meaning, _ in rows)


def test_every_public_name_is_on_the_page_of_the_python_api() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    names = set(airtune.__all__) - {"__version__"}
    assert {name for name in names if f"airtune.{name}" not in text} == set()
