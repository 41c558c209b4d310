"""What the documents show runs: examples, commands and the planner of one's own."""

import re
import sys
from pathlib import Path

import pytest

import airtune
from airtune.experiment.reading import read_config
from airtune.part_folders import make_importable

ROOT = Path(airtune.__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "README.md").is_file(), reason="airtune is installed without its documents"
)


def _blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.DOTALL)


def test_a_planner_of_ones_own_runs_as_documented(tmp_path: Path) -> None:
    from tests.cli.conftest import quick

    (code,) = _blocks(ROOT / "docs" / "own-parts.md", "python")
    (text,) = _blocks(ROOT / "docs" / "own-parts.md", "yaml")
    (tmp_path / "my_parts.py").write_text(code)
    (tmp_path / "experiment.yaml").write_text(text)
    settings = quick("rounds=1")[1::2]
    try:
        run = airtune.Experiment.load(tmp_path / "experiment.yaml", settings).run(tmp_path / "run")
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("my_parts", None)
    bands = [entry["bandwidth_hz"] for entry in run.records[0]["clients"]]
    assert sorted(bands) == [0.375e6, 0.75e6, 1.5e6]
    # bf16 on the uplink, fp32 on the downlink.
    assert run.records[0]["uplink_bits"] < 3 * 0.6 * run.records[0]["downlink_bits"]


def test_settings_in_the_documents_are_keys() -> None:
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for setting in re.findall(r"--set ([\w.]+=[^\s`'\"]+)", path.read_text()):
            if "…" not in setting:
                read_config(None, [setting])


def test_links_lead_somewhere() -> None:
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_python_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_importable(tmp_path)
    for code in _blocks(ROOT / "README.md", "python"):
        exec(compile(code, "README.md", "exec"), {})
