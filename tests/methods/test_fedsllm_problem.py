"""FedsLLM problem files: reading, refusing, the JSON answer, and its total by plain loops."""

import json
import math
from typing import Any

import pytest

from airtune.errors import InputError
from airtune.methods.fedsllm import problem as fedsllm

KEYS = [
    "status",
    "message",
    "total_delay_s",
    "local_accuracy",
    "lower_bound_s",
    "gap",
    "solver",
    "solve_time_s",
    "iterations",
    "check",
    "clients",
]


def problem() -> dict[str, Any]:
    return {
        "method": "fedsllm",
        "a": 10,
        "v": 2,
        "bandwidth_hz": 1e7,
        "noise_psd_dbm_hz": -174,
        "clients": [
            {
                "name": "a",
                "tx_power_dbm": 23,
                "gain_db": -104,
                "compute_delay_s": 0.05,
                "payload_bits": 6e6,
            },
            {
                "name": "b",
                "tx_power_w": 0.1,
                "gain_db": -118,
                "compute_delay_s": 0.1,
                "payload_bits": 3e6,
            },
            {"spectral_efficiency_bps_hz": 2.5, "compute_delay_s": 0.2, "payload_bits": 6e6},
        ],
    }


def solve(mapping: dict[str, Any], solver: str = "exact") -> dict[str, Any]:
    read = fedsllm.read(mapping)
    return fedsllm.answer(read, fedsllm.SOLVERS[solver](read))


@pytest.mark.parametrize("solver", list(fedsllm.SOLVERS))
def test_answer_has_the_promised_keys_and_total(solver: str) -> None:
    mapping = problem()
    answer = solve(mapping, solver)
    assert list(answer) == KEYS
    eta, slowest = answer["local_accuracy"], 0.0
    for client, given in zip(answer["clients"], mapping["clients"], strict=True):
        b = client["bandwidth_hz"]
        rate = b * given.get("spectral_efficiency_bps_hz", 0.0)
        if "gain_db" in given:
            power = given.get("tx_power_w", 1e-3 * 10 ** (given.get("tx_power_dbm", 0) / 10))
            rate = b * math.log2(1 + power * 10 ** (given["gain_db"] / 10) / (b * 1e-3 * 10**-17.4))
        upload = given["payload_bits"] / rate
        slowest = max(slowest, 2 * math.log2(1 / eta) * given["compute_delay_s"] + upload)
        assert client["upload_s"] == pytest.approx(upload, rel=1e-9)
    assert answer["total_delay_s"] == pytest.approx(10 / (1 - eta) * slowest, rel=1e-9)
    assert sum(client["bandwidth_hz"] for client in answer["clients"]) <= 1e7 * (1 + 1e-9)
    json.dumps(answer, allow_nan=False)


def test_exact_is_the_default_and_never_worse() -> None:
    assert next(iter(fedsllm.SOLVERS)) == "exact"
    assert solve(problem())["total_delay_s"] <= solve(problem(), "equal")["total_delay_s"]
    assert solve(problem())["status"] == "optimal"


def test_no_signal_is_an_answer() -> None:
    mapping = problem()
    mapping["clients"][1]["gain_db"] = -math.inf
    for solver in fedsllm.SOLVERS:
        answer = solve(mapping, solver)
        assert answer["status"] == "infeasible"
        assert "client b" in answer["message"]
        assert answer["clients"] is answer["total_delay_s"] is answer["local_accuracy"] is None


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("a", 0, "a is 0"),
        ("v", -1, "v is -1"),
        ("bandwidth_hz", math.nan, "bandwidth_hz is nan"),
        ("noise_psd_dbm_hz", None, "noise_psd_dbm_hz is missing"),
        ("bandwith_hz", 1e6, "did you mean 'bandwidth_hz'"),
        ("clients", [{"tx_power_dbm": 20, "gain_db": -100, "payload_bits": 1}], "compute_delay_s"),
    ],
)
def test_refusals(key: str, value: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        solve(problem() | {key: value})
    assert words in str(caught.value)
