"""What `import airtune` offers is listed once, there, and costs nothing."""

import subprocess
import sys

import pytest

import airtune


def test_public_names() -> None:
    assert sorted(airtune.__all__) == sorted({*airtune._HOME, "__version__"})
    for name in airtune.__all__:
        assert getattr(airtune, name) is not None
        assert name in dir(airtune)
        if name != "__version__":
            assert getattr(airtune, name).__doc__
    assert callable(airtune.plan)
    with pytest.raises(AttributeError, match="has no attribute 'plans'"):
        airtune.plans  # noqa: B018


def test_the_front_door_is_light() -> None:
    code = "import sys, airtune; sys.exit('numpy' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "import sys, airtune; airtune.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_runs_as_a_module() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "airtune", "--version"], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == f"airtune {airtune.__version__}"
