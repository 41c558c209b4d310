"""The table of docs/fits.md: its rows and columns, and that a cell is a dry run's answer."""

import re
from itertools import product
from pathlib import Path

import pytest

import airtune
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import load_architecture
from airtune.workload.precision import Precision
from airtune.workload.step import Step
from airtune.workload.transformer import workload

ROOT = Path(airtune.__file__).parents[2]
if not (ROOT / "scripts").is_dir():
    pytest.skip("the scripts are part of a checkout", allow_module_level=True)

from fits_table import COLUMNS, DEVICES, DOCUMENT, MODELS, PLACE, cell  # noqa: E402


def rows() -> list[list[str]]:
    found = PLACE.search(DOCUMENT.read_text())
    assert found is not None
    lines = found[0].splitlines()[1:-1]
    return [[entry.strip() for entry in line.strip("|").split("|")] for line in lines]


def test_the_table_has_every_model_device_and_column() -> None:
    head, _, *body = rows()
    assert head == ["model", "device", "usable", *COLUMNS]
    assert [(row[0], row[1].strip("`")) for row in body] == list(product(MODELS, DEVICES))
    assert all(re.fullmatch(r"[\d.e+]+ GB.*|–.*", entry) for row in body for entry in row[2:])


def test_a_cell_is_the_dry_run_s() -> None:
    """By the formulas alone: the weights, the adapter, one step of the longest row."""
    found = {(row[0], row[1].strip("`")): row[3:] for row in rows()[2:]}
    model, device = "qwen2.5-0.5b", "galaxy-s25"
    shown = found[model, device][list(COLUMNS).index("bf16")]
    assert cell(model, device, COLUMNS["bf16"]) == shown
    least = workload(
        load_architecture(model), AdapterShape(8), Step(1, 8), precision=Precision("bf16")
    )
    most = workload(
        load_architecture(model), AdapterShape(8), Step(1, 256), precision=Precision("bf16")
    )
    assert least.memory_bytes < 1e9 * float(shown.split()[0]) < most.memory_bytes
