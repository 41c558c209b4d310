"""Parts by name and by import path."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airtune.errors import AirtuneError, InputError
from airtune.experiment.composition import check_names, compose_method, make_part
from airtune.experiment.reading import read_config
from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.methods.bench import Bench
from airtune.methods.parts import CODECS
from airtune.part_folders import make_importable
from airtune.update.codec import Codec, DenseCodec

OWN = """
from airtune.update.codec import DenseCodec
from airtune.federated.method import Planner

class Mine(Planner):
    def __init__(self, share=1.0):
        self.share = share
    def plan(self, view, state):
        raise NotImplementedError
"""


@pytest.fixture
def own_module(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "my_parts.py").write_text(OWN)
    make_importable(tmp_path)
    yield
    sys.path.remove(str(tmp_path))
    sys.modules.pop("my_parts", None)


def codec(spec: object) -> object:
    """The codec that an experiment names so, beside no model."""
    return make_part(spec, CODECS, (Codec,), "codec", Bench(read_config(), None))  # type: ignore[arg-type]


def test_names_and_options() -> None:
    assert codec("dense") == DenseCodec("fp32")
    assert codec({"use": "dense", "dtype": "bf16"}) == DenseCodec("bf16")
    path = "airtune.update.codec:DenseCodec"
    assert codec({"use": path, "dtype": "fp16"}) == DenseCodec("fp16")


@pytest.mark.usefixtures("own_module")
def test_a_planner_of_ones_own() -> None:
    config = read_config(None, ["planner={use: my_parts:Mine, share: 0.5}"])
    method = compose_method(config, None, ())
    planner: Any = method.planner
    assert type(planner).__name__ == "Mine"
    assert planner.share == 0.5
    assert isinstance(compose_method(read_config(), None, ()).planner, BandwidthPlanner)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("dens", "codec is dens, but it must be one of dense, .*did you mean 'dense'"),
        ("no_such_module:X", "importable: No module named 'no_such_module'"),
        ("airtune.update.codec:Nothing", "a class in airtune.update.codec"),
        ("airtune.federated.records.checkpoint:Clock", "a subclass of airtune.update.codec.Codec"),
        ({"use": "dense", "bits": 3}, r"codec\.bits is .*dtype"),
        (":Mine", "of the form package.module:Class"),
        ("..relative:Mine", "of the form package.module:Class"),
        ("json:", "of the form package.module:Class"),
        ({"dtype": "fp32"}, "a mapping with the key 'use'"),
    ],
)
def test_refusals(spec: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        codec(spec)


@pytest.mark.parametrize(
    ("code", "options", "sentence"),
    [
        (
            "1 / 0",
            {},
            r"codec rough:Mine, while its module was imported, failed: "
            r"ZeroDivisionError: division by zero \(.*rough.py, line 1\): mend it, or leave it out",
        ),
        ("import no_such_package", {}, "was imported, failed: ModuleNotFoundError: No module"),
        ("class Mine(", {}, r"imported, failed: SyntaxError: .*\(rough.py, line 1\)"),
        ("raise SystemExit(3)", {}, "imported, failed: SystemExit: 3"),
        ("def __getattr__(name): raise KeyError(name)", {}, "imported, failed: KeyError: 'Mine'"),
        (
            "from airtune.update.codec import DenseCodec\nclass Mine(DenseCodec):\n"
            " def __init__(self, bits): self.table = {}[bits]",
            {"bits": 3},
            r"rough:Mine, while it was made with bits=3, failed: KeyError: 3 "
            r"\(.*rough.py, line 3\)",
        ),
        (
            "from airtune.update.codec import DenseCodec\nclass Mine(DenseCodec):\n"
            " def __init__(self, bits): self.table = len(bits)",
            {"bits": 3},
            "rough:Mine, while it was made with bits=3, failed: TypeError: .*rough.py, line 3",
        ),
        (
            "from airtune.update.codec import Codec\nclass Mine(Codec): pass",
            {},
            "while it was made with no options, failed: "
            "TypeError: Can't instantiate abstract class",
        ),
    ],
)
def test_a_part_that_raises(
    code: str,
    options: dict[str, object],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "rough.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rough", raising=False)
    with pytest.raises(AirtuneError, match=sentence):
        codec({"use": "rough:Mine", **options})
    sys.modules.pop("rough", None)


@pytest.mark.parametrize("method", ["fedlora", "hetlora", "ffa_lora"])
def test_a_wrong_option_is_the_planners(method: str) -> None:
    planner = "planner={use: bandwidth, bandwidth: widest}"
    with pytest.raises(InputError, match=r"^planner.bandwidth is widest, but it must be one of"):
        check_names(read_config(None, [f"method={method}", planner]))


def test_unknown_method() -> None:
    with pytest.raises(InputError, match=r"method is fedlore, .*did you mean 'fedlora'"):
        check_names(read_config(None, ["method=fedlore"]))
