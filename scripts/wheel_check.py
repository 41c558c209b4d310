"""The wheel, tried as a user would: built, installed into an empty environment, used elsewhere.

    python scripts/wheel_check.py             # a few minutes and 1 GB below the temporary folder
    python scripts/wheel_check.py --tutorial  # and every command of the tutorial, as printed
    python scripts/wheel_check.py --keep      # leaves the folder, and says where it is

It needs a package registry. Every command runs in an empty folder, without the repository.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("rounds=2", "clients.count=3", "training.local_steps=1", "data.score_rows=2")
COMMANDS: Sequence[Sequence[str]] = (
    ("--version",),
    ("doctor",),
    ("init",),
    ("init", "--problem", "jcpba"),
    ("init", "--compare"),
    ("init", "--experiment", "validate"),
    ("plan", "jcpba.yaml"),
    ("compare", "comparison.yaml", "--dry-run", "--methods", "fedlora-minmax"),
    ("run", "--out", "run", *(part for key in SMALL for part in ("--set", key))),
    ("report", "run"),
    ("export", "run", "tuned"),
    ("cite", "run"),
    ("model", "export", "builtin", "base"),
)
"""What a user does first, in this order."""
LEFT = (
    "experiment.yaml",
    "experiments/devices/slow-board.yaml",
    "run/report.html",
    "tuned/README.md",
    "base/LICENSE",
)
"""Files that are there in the end."""


def check(place: Path, tutorial: bool = False) -> None:
    """Build, install and use the wheel below `place`. Raises CalledProcessError at the first
    command that fails."""
    work, home = place / "empty", place / "home"
    work.mkdir()
    home.mkdir()
    wheel = built_wheel(place / "wheels")
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size / 1e6:.1f} MB", flush=True)
    began = time.monotonic()
    venv.create(place / "venv", with_pip=True)
    pip = (str(place / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet")
    constraints = str(ROOT / "constraints.txt")
    _run((*pip, "--disable-pip-version-check", "-c", constraints, str(wheel)), place)
    print(f"installed in {time.monotonic() - began:.0f} s", flush=True)
    airtune = str(place / "venv" / "bin" / "airtune")
    for command in COMMANDS:
        print(f"$ airtune {' '.join(command)}", flush=True)
        _run((airtune, *command), work, home)
    for name in LEFT:
        if not (work / name).is_file():
            raise SystemExit(f"{name} was not written")
    if tutorial:
        began = time.monotonic()
        # The interpreter says which `airtune` and `python` the commands of the page are.
        python, script = place / "venv" / "bin" / "python", ROOT / "scripts" / "tutorial.py"
        _run((str(python), str(script), str(place / "tutorial")), place, home)
        print(f"the tutorial took {time.monotonic() - began:.0f} s", flush=True)


def built_wheel(folder: Path) -> Path:
    """The wheel of this checkout."""
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check")
    _run((*command, "--no-deps", "--wheel-dir", str(folder), str(ROOT)), ROOT)
    (wheel,) = folder.glob("airtune-*.whl")
    return wheel


def _run(command: Sequence[str], folder: Path, home: Path | None = None) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if home is not None:
        environment |= {"HOME": str(home), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="leave the folder behind")
    parser.add_argument("--tutorial", action="store_true", help="run the tutorial, too")
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="airtune-wheel-"))
    try:
        check(place, given.tutorial)
    finally:
        if given.keep:
            print(f"left in {place}")
        else:
            shutil.rmtree(place)
    print("The wheel works.")


if __name__ == "__main__":
    main()
