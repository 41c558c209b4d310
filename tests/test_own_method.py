"""`examples/own_method`: an installable package adds a method without touching airtune."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import airtune

ROOT = Path(airtune.__file__).parents[2]
PACKAGE = ROOT / "examples" / "own_method"
pytestmark = pytest.mark.skipif(
    not PACKAGE.is_dir(), reason="airtune is installed without its examples"
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The package as if installed: its code and its metadata on the path, nothing built."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    place = tmp_path_factory.mktemp("installed")
    info = place / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    paths = [str(place), str(PACKAGE), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def test_its_own_tests_pass(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PACKAGE)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_section_is_written_and_it_is_not_imported_for_help(
    environment: dict[str, str], tmp_path: Path
) -> None:
    code = (
        "import sys; from airtune.cli.main import app; "
        "import typer; typer.main.get_command(app); sys.exit('airtune_nibble' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )
    command = [sys.executable, "-m", "airtune", "run", "--set", "method=nibbel", "--dry-run"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "did you mean 'nibble'" in done.stderr


def test_airtune_does_not_know_it() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        assert "nibble" not in path.read_text(), path
