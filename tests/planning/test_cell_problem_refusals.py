"""What a problem that names a model and a cell refuses, in one sentence each."""

from pathlib import Path
from typing import Any

import pytest

from airtune.errors import InputError
from airtune.methods.plan import plan
from tests.planning.cell_cases import CASES, FEDSL, FEDSLLM, HSFL, JCPBA, SFLLLM, TSFA, changed

NAN, INF = float("nan"), float("inf")


def sentence_of(problem: dict[str, Any]) -> str:
    with pytest.raises(InputError) as error:
        plan(problem)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    return str(error.value)


SHARED = [
    ("modle", "gpt2", "modle is not a key", "did you mean 'model'"),
    ("toknes", 3, "toknes is not a key", "did you mean 'tokens'"),
    (
        "cell.bandwith_hz",
        1,
        "cell.bandwith_hz is not a key",
        "did you mean 'bandwidth_hz'",
    ),
    ("adapter.rnk", 4, "adapter.rnk is not a key", "did you mean 'rank'"),
    ("training.batchsize", 4, "training.batchsize is not a key", "batch_size"),
    (
        "clients.divices",
        [],
        "clients.divices is not a key",
        "did you mean 'devices'",
    ),
    ("data", {}, "data is not a key", "known here: method, model"),
    ("model", "gpt3", "model is gpt3, but it must be 'builtin', a bundled config", "gpt2"),
    ("tokens", None, "tokens is missing", "whole number of at least 1"),
    ("tokens", 2048, "tokens is 2048, but it must be at most 1024", "own limit"),
    ("tokens", NAN, "tokens is nan", "whole number of at least 1"),
    ("training.batch_size", None, "training.batch_size is missing", "whole number"),
    ("training.batch_size", 2.5, "training.batch_size is 2.5", "whole number"),
    ("training.local_steps", 0, "training.local_steps is 0", "whole number"),
    ("training.optimizer", "lion", "training.optimizer is lion", "adamw"),
    ("clients.count", INF, "clients.count is inf", "whole number"),
    ("clients.devices", ["pixel-8"], "clients.devices is pixel-8", "did you mean 'pixel-9'?"),
    ("clients.devices", [], "clients.devices is []", "a list of at least one entry"),
    ("clients.device_file", "no.yaml", "clients.device_file is no.yaml", "exists"),
    ("clients", [{"name": "a"}], "clients is [", "mapping"),
    ("cell", 3, "cell is 3", "mapping"),
    ("cell.bandwidth_hz", -1, "cell.bandwidth_hz is -1", "above 0"),
    ("cell.bandwidth_hz", 20, "cell.bandwidth_hz is 20", "20e6 for 20 MHz"),
    ("cell.unusual_values", "band", "cell.unusual_values is band", "bandwidth_hz"),
    ("adapter.target_modules", ["q_proj"], "adapter.target_modules is q_proj", "c_attn"),
    ("adapter.target_modules", 3, "adapter.target_modules is 3", "a list of module names"),
    ("adapter.kind", "full", "adapter.kind is full", "must be lora in a planning problem"),
    ("round", -1, "round is -1", "a whole number of at least 0, or mean"),
    ("round", "median", "round is median", "a whole number of at least 0, or mean"),
    ("uplink_dtype", "int3", "uplink_dtype is int3", "fp16"),
    ("dtype", "fp8", "dtype is fp8", "bf16"),
]
"""What all methods read with the same code: keys, values, how a refusal starts, what it advises."""


@pytest.mark.parametrize(
    ("name", "path", "value", "start", "remedy"),
    [(list(CASES)[index % len(CASES)], *row) for index, row in enumerate(SHARED)],
)
def test_every_method(name: str, path: str, value: Any, start: str, remedy: str) -> None:
    problem = changed(CASES[name], path, value)
    if (name, path) == ("fedsllm", "training.local_steps"):
        problem = changed(problem, path, 0)
    said = sentence_of(problem)
    assert said.startswith(start)
    assert remedy in said


@pytest.mark.parametrize(
    ("problem", "start", "remedy"),
    [
        (changed(JCPBA, "pruning_budget", None), "pruning_budget is missing", "number"),
        (changed(HSFL, "uplink_dtype", "bf16"), "uplink_dtype is bf16", "no update is sent"),
        (changed(FEDSL, "uplink_dtype", "bf16"), "uplink_dtype is bf16", "no update is sent"),
        (changed(FEDSL, "training.local_steps", 3), "training.local_steps is 3", "one step"),
        (changed(JCPBA, "pruning_rate_max", 1.5), "pruning_rate_max is 1.5", "from 0 to 1"),
        (changed(JCPBA, "downlink_dtype", "int8"), "downlink_dtype is int8", "bf16"),
        (changed(JCPBA, "clients.examples", [1, 2]), "clients.examples is a list of 2", "3"),
        (changed(JCPBA, "clients.examples", [1, 0, 2]), "clients.examples is 0", "above 0"),
        (changed(JCPBA, "adapter.rank", 900), "adapter.rank is 900", "at most 768"),
        (
            changed(FEDSLLM, "clients.examples", 1),
            "clients.examples is not a key",
            "count",
        ),
        (changed(FEDSLLM, "a", None), "a is missing", "number"),
        (changed(TSFA, "v", None), "v is missing", "number"),
        (changed(TSFA, "v", -1), "v is -1", "of at least 0"),
        (changed(TSFA, "rank_energy", [1, 2]), "rank_energy is a list of 2", "each of 8 ranks"),
        (changed(TSFA, "rank_energy", [[1] * 8] * 2), "rank_energy is 2 lists", "or 3 lists"),
        (changed(TSFA, "rank_energy", [NAN] * 8), "rank_energy is nan", "of at least 0"),
        (changed(TSFA, "rank_energy", 1), "rank_energy is 1", "a list"),
        (changed(SFLLLM, "rounds", None), "rounds is missing", "such as {4: 40, 8: 35}"),
        (changed(SFLLLM, "rounds", 40), "rounds is 40", "measured with a run for each rank"),
        (changed(SFLLLM, "rounds", {4: -1}), "rounds[4] is -1", "above 0"),
        (changed(SFLLLM, "rounds", {"a": 40}), "a key of rounds is a", "whole number"),
        (changed(SFLLLM, "rounds", {NAN: 40}), "a key of rounds is nan", "whole number"),
        (changed(SFLLLM, "rounds", {4000: 4}), "adapter.rank is 4000", "at most 768"),
        (changed(SFLLLM, "adapter", {"rank": 4}), "adapter.rank is 4", "the keys of rounds"),
        (changed(SFLLLM, "split_points", [0]), "split_points is 0", "from 1 to 11"),
        (changed(SFLLLM, "split_points", 3), "split_points is 3", "a list"),
        (changed(SFLLLM, "split_points", [1.5]), "split_points[0] is 1.5", "whole number"),
        (changed(SFLLLM, "downlink", "half"), "downlink is half", "equal, free"),
        (changed(SFLLLM, "activation_dtype", "int8"), "activation_dtype is int8", "bf16"),
        (changed(SFLLLM, "main_server", None), "main_server is missing", "mapping"),
        (changed(SFLLLM, "main_server.flop_rate", 0), "main_server.flop_rate is 0", "above 0"),
        (changed(SFLLLM, "main_server.subchannels", NAN), "main_server.subchannels is nan", "1"),
        (
            changed(SFLLLM, "federated_server.flop_rate", 1e9),
            "federated_server.flop_rate is not a key",
            "subchannels",
        ),
        (
            changed(SFLLLM, "main_server.power", 1),
            "main_server.power is not a key",
            "total",
        ),
        ({"method": "jcpab", "model": "gpt2"}, "method is jcpab", "did you mean 'jcpba'"),
    ],
)
def test_own_keys(problem: dict[str, Any], start: str, remedy: str) -> None:
    said = sentence_of(problem)
    assert said.startswith(start)
    assert remedy in said


@pytest.mark.parametrize("name", CASES)
def test_a_model_too_large_names_the_client(name: str) -> None:
    said = sentence_of(CASES[name] | {"model": "llama-3.1-70b"})
    assert said.startswith("memory of client 0 (jetson-orin-nano) is 5.58 Gbyte usable, but it")
    assert "llama-3.1-70b needs" in said


def test_a_floor_above_the_highest_rate_is_a_memory_matter() -> None:
    problem = JCPBA | {"model": "llama-3.2-1b", "pruning_rate_max": 0.005}
    assert "llama-3.2-1b needs at pruning_rate_max 0.005" in sentence_of(problem)


def test_a_round_that_a_recording_lacks(tmp_path: Path) -> None:
    from airtune.wireless.cell import CellSettings
    from airtune.wireless.channel import open_channel

    cell = CellSettings(**JCPBA["cell"])
    path = tmp_path / "cell.csv"
    open_channel(cell, 3, seed=4).export(path, rounds=range(2))
    replayed = JCPBA | {"cell": {"replay": str(path), "bandwidth_hz": 10e6}, "round": 1}
    drawn = plan(JCPBA | {"round": 1})
    again = plan(replayed)
    assert not isinstance(drawn, list)
    assert not isinstance(again, list)
    assert again.answer["latency_s"] == pytest.approx(drawn.answer["latency_s"], rel=1e-9)
    assert "round" in sentence_of(replayed | {"round": 2})


def test_a_server_rate_in_another_unit_is_refused_unless_it_is_meant() -> None:
    problem = changed(SFLLLM, "main_server.flop_rate", 10)
    message = sentence_of(problem)
    assert message.startswith("main_server.flop_rate is 10")
    assert "1e13 for 10 TFLOP/s" in message
    plan(changed(problem, "main_server.unusual_values", ["flop_rate"]))
    wrong = changed(problem, "main_server.unusual_values", ["subchannels"])
    assert sentence_of(wrong).startswith("main_server.unusual_values is subchannels")


@pytest.mark.parametrize(
    ("model", "reason"),
    [("olmo-2-1b", "normalised over all heads"), ("qwen3-30b-a3b", "its MLPs are experts")],
)
def test_models_that_cannot_be_pruned(model: str, reason: str) -> None:
    """By name, and by jcpba alone: the others plan for them."""
    problem = changed(JCPBA, "model", model)
    assert "of whose blocks heads and neurons can be removed" in sentence_of(problem)
    assert reason in sentence_of(problem)
    others = changed(changed(SFLLLM, "model", "olmo-2-1b"), "clients.devices", ["h100-80gb"])
    assert plan(others)
