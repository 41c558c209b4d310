"""Methods of installed packages: found by their entry point, imported where they are named."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airtune.errors import InputError
from airtune.experiment.digests import method_source
from airtune.experiment.reading import check_filled, default_experiment
from airtune.methods import registry
from airtune.methods.options import DenseSection
from airtune.methods.registry import find_method, method_names, shipped_methods

Install = Callable[..., None]
MODULE = """
from airtune.methods.options import DenseSection
from airtune.methods.spec import Lazy, MethodSpec
from pydantic import Field

class Options(DenseSection):
    share: float = Field(0.5, ge=0, le=1, description="a share")

SPEC = MethodSpec("mine", "one of mine", options=Options,
                  compose=Lazy("airtune.methods.fedlora.compose:compose"))
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package with one entry point on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(name: str, module: str = MODULE, package: str = "mine_methods") -> None:
        (tmp_path / f"{package}.py").write_text(module)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[airtune.methods]\n{name} = {package}:SPEC\n")
        registry.installed_methods.cache_clear()

    yield put
    sys.modules.pop("mine_methods", None)
    registry.installed_methods.cache_clear()
    registry._load.cache_clear()


def test_an_installed_method_is_named_and_has_its_section(install: Install) -> None:
    install("mine")
    assert "mine" in method_names()
    assert "mine_methods" not in sys.modules, "naming it does not import it"
    config = check_filled({"method": "mine", "mine": {"share": 0.25}})
    assert config.value_of("mine.share") == 0.25
    assert isinstance(config.section(find_method("mine").options), DenseSection)
    assert "mine" not in default_experiment().methods
    with pytest.raises(InputError, match=r"mine\.share is 2, but it must be a number from 0 to 1"):
        check_filled({"method": "mine", "mine": {"share": 2}})
    with pytest.raises(InputError, match=r"mine\.shore is not a key .* did you mean 'share'"):
        check_filled({"mine": {"shore": 2}})


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("raise OSError('no disk')", "no disk"),
        ("SPEC = 3", "a MethodSpec of this name"),
        (MODULE.replace('"mine", "one', '"yours", "one'), "a MethodSpec of this name"),
    ],
)
def test_a_broken_package_is_named_where_its_method_is(
    install: Install, module: str, sentence: str
) -> None:
    install("mine", module)
    check_filled({"method": "fedlora"})
    with pytest.raises(Exception, match=sentence) as error:
        check_filled({"method": "mine"})
    assert "mine" in str(error.value)


def test_another_source_of_an_installed_method_is_noticed(install: Install, tmp_path: Path) -> None:
    install("mine")
    find_method("mine")
    before = method_source("mine")
    assert before == method_source("mine")
    (tmp_path / "mine_methods.py").write_text(MODULE + "# changed\n")
    assert method_source("mine") != before
    assert method_source("fedlora") is None


def test_a_name_registered_twice_is_refused(install: Install) -> None:
    install("fedlora")
    with pytest.raises(InputError, match="airtune itself both have it"):
        method_names()


def test_unknown_methods_get_a_suggestion() -> None:
    with pytest.raises(InputError, match="did you mean 'jcpba'"):
        find_method("jcbpa")


def test_every_shipped_method_says_what_it_is() -> None:
    for spec in shipped_methods().values():
        assert spec.title
        assert spec.references or not spec.is_federated
        assert spec.compose is not None or spec.problem is not None


def test_help_imports_no_installed_method(tmp_path: Path) -> None:
    for index in range(20):
        (tmp_path / f"method_{index}.py").write_text("raise SystemExit('imported')\n")
        info = tmp_path / f"method_{index}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: method_{index}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[airtune.methods]\nm{index} = method_{index}:S\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-m", "airtune", "--help"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert "Usage" in done.stdout
