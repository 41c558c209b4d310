"""`airtune doctor`: what it finds, and what it calls a fault."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airtune.errors import AirtuneError
from airtune.experiment import checkup
from airtune.experiment.checkup import Finding

Call = Callable[..., tuple[int, str, str]]


def test_a_sound_installation_has_no_fault(airtune: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = airtune("doctor")
    assert (code, err) == (0, "")
    assert "Nothing is in the way of `airtune run`." in out
    assert max(map(len, out.splitlines())) <= 80
    assert "FAULT:" not in out
    # The tests set it.
    assert "HF_HUB_OFFLINE" in out
    code, out, _ = airtune("doctor", "--json")
    found = json.loads(out)
    assert (code, found["ok"]) == (0, True)
    names = {row["name"] for row in found["findings"]}
    assert {"airtune", "torch", "cores", "memory", "this folder", "built-in model"} <= names


def test_a_fault_ends_with_2_and_says_what_to_do(
    airtune: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Finding("torch", "missing", "fault", "pip install 'torch>=2.6'")
    monkeypatch.setattr(checkup, "checkup", lambda: [Finding("airtune", "0.1.0"), fault])
    code, out, _ = airtune("doctor")
    assert code == 2
    assert "FAULT: missing; pip install 'torch>=2.6'" in out
    assert "1 fault: mend what is marked FAULT first." in out
    code, out, _ = airtune("doctor", "--json")
    assert (code, json.loads(out)["ok"]) == (2, False)


def of(part: Any) -> dict[str, Finding]:
    return {finding.name: finding for finding in part()}


def test_packages_are_held_against_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=2.0", "rich>=9999", "no-such-package-at-all>=1", "ray>=2; extra == 'ray'"]
    monkeypatch.setattr(checkup, "requires", lambda name: wanted)
    found = of(checkup._packages)
    assert found["numpy"].verdict == "ok"
    assert found["rich"].verdict == "fault"
    assert found["rich"].value.endswith(", too old")
    assert found["no-such-package-at-all"].value == "missing"
    assert "ray" not in found
    assert of(checkup._extras)["extra ray"].verdict == "ok"


def test_a_model_that_does_not_load_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr("airtune.tuning.base_model.load_base", refuse)
    for error in (AirtuneError("The file is damaged."), RuntimeError("torch is broken")):
        found = of(checkup._builtin)["built-in model"]
        assert found.verdict == "fault"
        assert str(error).rstrip(".") in found.remedy


def test_traps_of_the_environment_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert "HF_HUB_OFFLINE" not in of(checkup._traps)
    monkeypatch.setenv("https_proxy", "http://10.0.0.1:3128")
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert "no_proxy" in of(checkup._traps)["https_proxy"].remedy
    assert of(checkup._processor)["OMP_NUM_THREADS"].verdict == "note"


def test_little_memory_and_disk_are_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = checkup.free_memory_bytes()
    assert free is None or 1e7 < free < 1e14
    monkeypatch.setattr(checkup, "free_memory_bytes", lambda: 1e9)
    assert of(checkup._memory)["memory"].verdict == "note"
    monkeypatch.setattr(checkup, "LEAST_DISK_BYTES", 1e18)
    assert of(checkup._disk)["this folder"].verdict == "note"
    monkeypatch.setattr("os.access", lambda *arguments: False)
    assert of(checkup._disk)["this folder"].verdict == "fault"
