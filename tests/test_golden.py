"""The compare step of `scripts/golden.py`, and what it reads from tensors and traces."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import airtune

SCRIPTS = Path(airtune.__file__).parents[2] / "scripts"
if not SCRIPTS.is_dir():
    pytest.skip("the scripts are part of a checkout", allow_module_level=True)
sys.path.insert(0, str(SCRIPTS))

from golden_cases import CASES, arguments, chosen  # noqa: E402
from golden_compare import compare_case  # noqa: E402
from golden_record import _traced, read_tensors  # noqa: E402

RECORDING: dict[str, Any] = {
    "codes": [0],
    "stderr": "Engine: sequential.",
    "trace": {
        "run/checkpoints/round-00001": {
            "digests": {"adapter": "aa", "server": "bb"},
            "payloads": {"0": ["cc"], "1": ["dd"]},
        }
    },
    "records": [
        {"round": 1, "uplink_bits": 3588736, "latency_s": 0.5, "skipped": {"2": "no signal"}},
    ],
    "answer": {"status": "optimal", "gap": 2e-13, "message": "four clients", "solve_time_s": 1.0},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """RECORDING with one value replaced, or removed where the value is None."""
    copy: dict[str, Any] = json.loads(json.dumps(RECORDING))
    *above, last = path.split("|")
    place: Any = copy
    for key in above:
        place = place[int(key) if isinstance(place, list) else key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return copy


def places(base: Any, head: Any) -> list[str]:
    return [one.place for one in compare_case("case", base, head).differences]


def test_equal_recordings_have_no_difference_and_are_counted() -> None:
    compared = compare_case("case", RECORDING, changed("stderr", "other words"))
    assert compared.differences == []
    assert compared.digests == 4
    assert compared.values == 7  # code, round, bits, latency, one reason, status, gap


CHECKPOINT = "trace|run/checkpoints/round-00001"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{CHECKPOINT}|digests|adapter", "ab"),
        (f"{CHECKPOINT}|payloads|1", ["dd", "ee"]),
        (f"{CHECKPOINT}|payloads|1", None),
        ("records|0|uplink_bits", 3588737),
        ("records|0|uplink_bits", None),
        ("records|0|uplink_bits", "3588736"),
        ("records|0|latency_s", 0.5 * (1 + 3e-9)),
        ("records|0|latency_s", float("nan")),
        ("records|0|skipped", {"3": "no signal"}),
        ("records|0|new", 1),
        ("answer|status", "feasible"),
        ("answer|gap", 3e-9),
        ("codes", [2]),
        ("codes", [0, 0]),
    ],
)
def test_a_change_is_found_in_its_place(path: str, value: Any) -> None:
    [*found] = places(RECORDING, changed(path, value))
    assert found
    assert all(place.startswith(path.replace("|", "/")) for place in found if "skipped" not in path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("records|0|latency_s", 0.5 * (1 + 5e-10)),
        ("records|0|skipped", {"2": "it has no signal"}),
        ("answer|message", "4 clients"),
        ("answer|message", None),
        ("answer|solve_time_s", 7.0),
        ("answer|gap", -1e-15),
    ],
)
def test_wording_seconds_and_rounding_are_not_compared(path: str, value: Any) -> None:
    assert places(RECORDING, changed(path, value)) == []


def test_the_order_of_keys_does_not_matter() -> None:
    assert places(RECORDING, dict(reversed(RECORDING.items()))) == []


def test_not_a_number_equals_itself_alone() -> None:
    nan = float("nan")
    assert places({"x": nan}, {"x": nan}) == []
    assert places({"x": nan}, {"x": 1.0}) == ["x"]
    assert places({"x": float("inf")}, {"x": float("-inf")}) == ["x"]
    assert places({"x": True}, {"x": 1}) == ["x"]
    assert places({"x": None}, {"x": 0}) == ["x"]


def frame(tensors: dict[str, list[float]], metadata: dict[str, str] | None = None) -> bytes:
    import torch
    from safetensors.torch import save

    framed: bytes = save({name: torch.tensor(x) for name, x in tensors.items()}, metadata=metadata)
    return framed


def test_tensors_are_digested_by_group_and_a_state_is_read() -> None:
    state = {"state": "0" * 64 + json.dumps({"time_s": 2.5, "records_length": 9})}
    first, read = read_tensors(frame({"adapter/a": [1.0, 2.0], "server/m": [3.0]}, state))
    other, _ = read_tensors(frame({"adapter/a": [1.0, 2.5], "server/m": [3.0]}))
    assert first.keys() == {"adapter", "server"}
    assert first["server"] == other["server"]
    assert first["adapter"] != other["adapter"]
    assert read == {"time_s": 2.5}


def test_payloads_belong_to_the_next_checkpoint(tmp_path: Path) -> None:
    def saved(name: str) -> dict[str, Any]:
        return {"saved": name, "digests": {"adapter": "a"}, "state": {}}

    lines = [
        saved("run/checkpoints/round-00000"),
        {"client": "1", "payload": "b"},
        {"client": "1", "payload": "a"},
        {"client": "1", "payload": "b"},
        saved("clients/1/round-00001"),
        saved("run/checkpoints/round-00001"),
        {"client": "0", "payload": "c"},
    ]
    (tmp_path / "trace").write_text("\n".join(map(json.dumps, lines)))
    found = _traced(tmp_path / "trace")
    assert found["run/checkpoints/round-00000"]["payloads"] == {}
    assert found["run/checkpoints/round-00001"]["payloads"] == {"1": ["a", "b"]}
    assert found["clients/1/round-00001"] == {"digests": {"adapter": "a"}}
    assert found["rest"]["payloads"] == {"0": ["c"]}


def test_cases_have_names_of_their_own_and_settings_replace_the_small_ones() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.name.startswith("jcpba-") for case in chosen("jcpba-*"))
    words = arguments("rounds=1 'sflllm.rounds_table={2: 60}'")
    assert [word for word in words if word.startswith("rounds=")] == ["rounds=1"]
    assert words[-1] == "sflllm.rounds_table={2: 60}"
