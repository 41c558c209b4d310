"""The tables in the documents are what the code says today."""

from pathlib import Path

import pytest

from airtune.cost.device import AMPLIFIER_EFFICIENCY, USABLE_MEMORY_SHARE, load_devices
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import load_architecture
from airtune.workload.config_source import bundled_names
from airtune.workload.families import FAMILIES
from airtune.workload.step import Step
from airtune.workload.transformer import workload

DOCS = Path(__file__).parents[2] / "docs"


def _rows(document: str, columns: int) -> list[list[str]]:
    lines = (DOCS / document).read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return [row for row in cells if len(row) == columns]


def test_published_models() -> None:
    # "gpt2" is a family in the table before, too; the later row counts.
    rows = {row[0]: row for row in _rows("workload.md", 6) if row[0] in bundled_names()}
    assert set(rows) == set(bundled_names())
    for name, (_, *figures, worst) in rows.items():
        counted = workload(load_architecture(name), AdapterShape(8), Step(1, 128))
        assert [int(figure.replace(",", "")) for figure in figures] == [
            counted.parameters,
            counted.adapter_parameters,
            counted.forward_flops,
            counted.backward_flops,
        ]
        assert worst == "none"


def test_small_models_deviate_by_nothing() -> None:
    rows = [row for row in _rows("workload.md", 6) if row[1] in {"1", "8", "64"}]
    assert {(row[0], row[1]) for row in rows} == {
        (f, r) for f in FAMILIES for r in ["1", "8", "64"]
    }
    assert {row[column] for row in rows for column in (3, 5)} == {"none"}


@pytest.mark.parametrize("share", [USABLE_MEMORY_SHARE, AMPLIFIER_EFFICIENCY])
def test_assumptions_are_told(share: float) -> None:
    text = (DOCS / "devices.md").read_text()
    assert str(share) in text or f"{share:.0%}".replace("%", " %") in text


def test_the_example_profile_loads(tmp_path: Path) -> None:
    text = (DOCS / "devices.md").read_text()
    example = text.split("```yaml")[1].split("```")[0]
    path = tmp_path / "devices.yaml"
    path.write_text(example)
    assert load_devices(path)["my-board"].training_flop_rate == 2.5e10
