"""SflLLM problem files: reading, refusing, the JSON answer, and its total by plain loops."""

import copy
import json
import math
from typing import Any

import pytest

from airtune.errors import InputError
from airtune.methods.sflllm import problem as sflllm

KEYS = [
    "status",
    "message",
    "total_delay_s",
    "split_point",
    "rank",
    "lower_bound_s",
    "gap",
    "solver",
    "solve_time_s",
    "iterations",
    "check",
    "clients",
]
CLIENT_KEYS = [
    "name",
    "main_subchannels",
    "main_psd_w_per_hz",
    "federated_subchannels",
    "federated_psd_w_per_hz",
    "client_forward_s",
    "activation_upload_s",
    "server_s",
    "gradient_download_s",
    "client_backward_s",
    "adapter_upload_s",
    "adapter_download_s",
]


def problem() -> dict[str, Any]:
    """Three clients, one of them with a gain per subchannel; gradients come back down."""
    row = {
        "client_forward_flops": 8e9,
        "client_backward_flops": 8e9,
        "server_forward_flops": 1.2e11,
        "server_backward_flops": 1.2e11,
        "activation_bits": 1.2e6,
        "gradient_bits": 6e5,
    }
    return {
        "method": "sflllm",
        "local_steps": 4,
        "batch_size": 2,
        "noise_psd_dbm_hz": -174,
        "main_server": {
            "flop_rate": 1e13,
            "subchannel_bandwidth_hz": [5e5, 4e5, 5e5, 6e5, 5e5],
            "total_power_dbm": 36,
        },
        "federated_server": {"subchannel_bandwidth_hz": [5e5] * 4, "total_power_dbm": 36},
        "clients": [
            {"name": "a", "flop_rate": 1e12, "power_max_dbm": 33, "main_gain_db": -104,
             "federated_gain_db": -109, "downlink_rate_bps": 5e7},
            {"name": "b", "flop_rate": 2e12, "power_max_w": 2.0, "federated_gain_db": -101,
             "main_gain_db": [-111, -109, -113, -120, -110], "downlink_rate_bps": 2e7},
            {"flop_rate": 1e12, "power_max_dbm": 33, "main_gain_db": -110,
             "federated_gain_db": -113, "downlink_rate_bps": 9e7},
        ],
        "candidates": [
            {"split_point": 1, "rank": 4, "rounds": 40, "adapter_bits": 1e6, **row},
            {"split_point": 1, "rank": 8, "rounds": 35, "adapter_bits": 2e6, **row},
            {"split_point": 2, "rank": 4, "rounds": 40, "adapter_bits": 2e6, **row,
             "client_forward_flops": 1.6e10, "server_forward_flops": 1.1e11},
        ],
    }  # fmt: skip


def solve(mapping: dict[str, Any], solver: str = "joint") -> dict[str, Any]:
    read = sflllm.read(mapping)
    return sflllm.answer(read, sflllm.SOLVERS[solver](read))


def total_from_answer(mapping: dict[str, Any], answer: dict[str, Any]) -> float:
    """The issue's formula on the answer's subchannels and densities, from the file's numbers."""
    row = next(
        c
        for c in mapping["candidates"]
        if (c["split_point"], c["rank"]) == (answer["split_point"], answer["rank"])
    )
    batch, n0 = mapping["batch_size"], 1e-3 * 10 ** (mapping["noise_psd_dbm_hz"] / 10)
    first = last = up = down = server = 0.0
    for client, given in zip(answer["clients"], mapping["clients"], strict=True):
        rate = {}
        for link in ("main", "federated"):
            widths = mapping[f"{link}_server"]["subchannel_bandwidth_hz"]
            gain_db = given[f"{link}_gain_db"]
            rate[link] = sum(
                widths[i]
                * math.log2(
                    1
                    + psd * 10 ** ((gain_db[i] if isinstance(gain_db, list) else gain_db) / 10) / n0
                )
                for i, psd in zip(
                    client[f"{link}_subchannels"], client[f"{link}_psd_w_per_hz"], strict=True
                )
            )
        forward = batch * row["client_forward_flops"] / given["flop_rate"]
        first = max(first, forward + batch * row["activation_bits"] / rate["main"])
        fetch = batch * row["gradient_bits"] / given["downlink_rate_bps"]
        last = max(last, fetch + batch * row["client_backward_flops"] / given["flop_rate"])
        server += batch * (row["server_forward_flops"] + row["server_backward_flops"])
        up = max(up, row["adapter_bits"] / rate["federated"])
        down = max(down, row["adapter_bits"] / given["downlink_rate_bps"])
    step = first + server / mapping["main_server"]["flop_rate"] + last
    return float(row["rounds"] * (mapping["local_steps"] * step + up + down))


@pytest.mark.parametrize("solver", [name for name in sflllm.SOLVERS if name != "blocks"])
def test_answer_has_the_promised_keys_and_total(solver: str) -> None:
    mapping = problem()
    answer = solve(mapping, solver)
    assert list(answer) == KEYS
    assert answer["solver"] == solver
    assert [list(client) for client in answer["clients"]] == [CLIENT_KEYS] * 3
    assert [client["name"] for client in answer["clients"]] == ["a", "b", "2"]
    assert answer["total_delay_s"] == pytest.approx(total_from_answer(mapping, answer), rel=1e-9)
    assert answer["gap"] == pytest.approx(answer["total_delay_s"] / answer["lower_bound_s"] - 1)
    owned = [index for client in answer["clients"] for index in client["main_subchannels"]]
    assert sorted(owned) == sorted(set(owned))
    json.dumps(answer, allow_nan=False)


def test_stage_delays_add_up_to_the_total() -> None:
    mapping = problem()
    answer = solve(mapping)
    clients = answer["clients"]
    step = (
        max(c["client_forward_s"] + c["activation_upload_s"] for c in clients)
        + clients[0]["server_s"]
        + max(c["gradient_download_s"] + c["client_backward_s"] for c in clients)
    )
    once = sum(max(c[f"adapter_{way}load_s"] for c in clients) for way in ("up", "down"))
    rounds = 40 if answer["rank"] == 4 else 35
    assert answer["total_delay_s"] == pytest.approx(rounds * (4 * step + once), rel=1e-12)


def test_blocks_are_chosen_one_by_one() -> None:
    mapping = problem() | {"blocks": {"subchannels": "greedy", "rank": "random"}, "seed": 3}
    answer = solve(mapping, "blocks")
    assert answer["solver"] == "blocks"
    assert answer["total_delay_s"] >= solve(problem())["total_delay_s"] * (1 - 1e-12)
    with pytest.raises(InputError, match="solver joint decides every block itself"):
        solve(mapping)
    with pytest.raises(InputError, match="blocks is missing"):
        solve(problem(), "blocks")


def test_without_downlink_nothing_is_charged_for_it() -> None:
    mapping = problem()
    for client in mapping["clients"]:
        del client["downlink_rate_bps"]
    for row in mapping["candidates"]:
        row["gradient_bits"] = 0
    answer = solve(mapping)
    assert {c["adapter_download_s"] for c in answer["clients"]} == {0.0}
    assert answer["total_delay_s"] < solve(problem())["total_delay_s"]


def test_linear_and_decibel_keys_agree() -> None:
    linear = problem()
    for client in linear["clients"]:
        client["federated_gain"] = 10 ** (client.pop("federated_gain_db") / 10)
    linear["noise_psd_w_hz"] = 1e-3 * 10 ** (linear.pop("noise_psd_dbm_hz") / 10)
    assert solve(linear)["total_delay_s"] == pytest.approx(solve(problem())["total_delay_s"])


def test_infeasible_is_an_answer() -> None:
    mapping = problem()
    mapping["clients"][1]["main_gain_db"] = [-math.inf] * 5
    for solver in ("joint", "greedy", "random"):
        answer = solve(mapping, solver)
        assert answer["status"] == "infeasible"
        assert "client b has no signal on any subchannel of the main" in answer["message"]
        assert answer["clients"] is answer["total_delay_s"] is answer["split_point"] is None
        json.dumps(answer, allow_nan=False)


def _without(mapping: dict[str, Any], path: list[Any]) -> None:
    for key in path[:-1]:
        mapping = mapping[key]
    del mapping[path[-1]]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["local_steps"], 0, "local_steps is 0"),
        (["batch_size"], 1.5, "batch_size is 1.5"),
        (["noise_psd_dbm_hz"], "loud", "noise_psd_dbm_hz is loud"),
        (["main_server", "subchannel_bandwidth_hz"], [], "main_server.subchannel_bandwidth_hz"),
        (["main_server", "subchannel_bandwidth_hz"], [5e5, -1], "is -1"),
        (["main_server", "flop_rate"], 0, "main_server.flop_rate is 0"),
        (["main_server", "flop_rates"], 1, "did you mean 'flop_rate'"),
        (
            ["federated_server", "total_power_dbm"],
            math.nan,
            "federated_server.total_power_dbm is nan",
        ),
        (["clients", 1, "flop_rate"], -1, "flop_rate of client b is -1"),
        (["clients", 1, "power_max_w"], -2.0, "power_max_w of client b is -2.0"),
        (["clients", 1, "main_gain_db"], [-111, -109], "main_gain_db of client b"),
        (["clients", 0, "federated_gain_db"], 5e4, "of magnitude 450 at most"),
        (["clients", 0, "main_gain"], 1e-9, "main_gain_db is given, but it must be left out"),
        (["clients", 0, "downlink_rate_bps"], None, "downlink_rate_bps of client a is missing"),
        (["clients", 0, "color"], "red", "clients.color is not a key that airtune knows"),
        (["clients"], [], "at least one client"),
        (["candidates"], [], "candidates is []"),
        (["candidates", 2, "split_point"], 1, "split_point 1 with rank 4 twice"),
        (["candidates", 1, "rounds"], 0, "candidates[1].rounds is 0"),
        (["candidates", 1, "rank"], 2.5, "candidates[1].rank is 2.5"),
        (["candidates", 0, "flops"], 1, "candidates[0].flops is not a key that airtune knows"),
        (["seed"], -1, "seed is -1"),
        (["blocks"], {"power": "loud"}, "blocks.power is loud"),
        (["blocks"], {"powers": "exact"}, "did you mean 'power'"),
    ],
)
def test_refusals(path: list[Any], value: object, words: str) -> None:
    mapping = problem()
    place = mapping
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InputError) as caught:
        solve(mapping)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        ["main_server"],
        ["main_server", "total_power_dbm"],
        ["clients", 0, "main_gain_db"],
        ["clients", 2, "federated_gain_db"],
        ["clients", 0, "power_max_dbm"],
        ["candidates", 1, "adapter_bits"],
    ],
)
def test_missing_keys_are_named(path: list[Any]) -> None:
    mapping = copy.deepcopy(problem())
    _without(mapping, path)
    with pytest.raises(InputError, match=r"missing") as caught:
        solve(mapping)
    assert str(path[-1]).removesuffix("_db").removesuffix("_dbm") in str(caught.value)


def test_reading_does_not_change_the_mapping() -> None:
    mapping = problem()
    before = copy.deepcopy(mapping)
    solve(mapping)
    assert mapping == before
