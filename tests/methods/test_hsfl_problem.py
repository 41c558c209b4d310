"""hsfl's problem files: reading, refusing, and the answer by plain loops over all cuts."""

import copy
from itertools import product
from typing import Any

import pytest

from airtune.errors import InputError
from airtune.methods.plan import from_cell, plan
from tests.planning.cell_cases import HSFL, changed


def problem() -> dict[str, Any]:
    return {
        "method": "hsfl",
        "local_steps": 3,
        "batch_size": 2,
        "round_trip_s": 0.01,
        "main_server": {"flop_rate": 4e11},
        "clients": [
            {"name": "fast", "flop_rate": 1e12, "uplink_rate_bps": 2e7, "downlink_rate_bps": 4e7},
            {"name": "slow", "flop_rate": 5e10, "uplink_rate_bps": 1e7, "downlink_rate_bps": 3e7},
            {"flop_rate": 4e11, "uplink_rate_bps": 8e6, "downlink_rate_bps": 9e6, "most_blocks": 2},
        ],
        "cuts": [
            {
                "split_point": point,
                "client_forward_flops": 8e9 * point,
                "client_backward_flops": 9e9 * point,
                "server_forward_flops": 8e9 * (6 - point),
                "server_backward_flops": 9e9 * (6 - point),
                "activation_bits": 1.2e6,
                "gradient_bits": 6e5,
            }
            for point in (3, 1, 2, 5)
        ],
    }


def seconds(mapping: dict[str, Any], points: Any) -> float:
    """The round by plain loops, from the file's numbers."""
    rows = {row["split_point"]: row for row in mapping["cuts"]}
    batch, trip = mapping["batch_size"], mapping["round_trip_s"]
    before = after = served = 0.0
    for client, point in zip(mapping["clients"], points, strict=True):
        row = rows[point]
        up = trip + batch * row["activation_bits"] / client["uplink_rate_bps"]
        down = trip + batch * row["gradient_bits"] / client["downlink_rate_bps"]
        before = max(before, batch * row["client_forward_flops"] / client["flop_rate"] + up)
        after = max(after, batch * row["client_backward_flops"] / client["flop_rate"] + down)
        work = row["server_forward_flops"] + row["server_backward_flops"]
        served += batch * work / mapping["main_server"]["flop_rate"]
    return float(mapping["local_steps"] * (before + served + after))


def test_own_cuts_against_all_of_them() -> None:
    mapping = problem()
    allowed = [(1, 2, 3, 5), (1, 2, 3, 5), (1, 2)]
    best = min(seconds(mapping, points) for points in product(*allowed))
    planned = plan(mapping)
    assert not isinstance(planned, list)
    answer = planned.answer
    points = [row["split_point"] for row in answer["clients"]]
    assert answer["latency_s"] == pytest.approx(best, rel=1e-12)
    assert answer["latency_s"] == pytest.approx(seconds(mapping, points), rel=1e-12)
    assert answer["status"] == "optimal"
    assert len(set(points)) > 1
    common = plan(mapping, solver="common")
    assert not isinstance(common, list)
    assert common.answer["latency_s"] == pytest.approx(
        min(seconds(mapping, [point] * 3) for point in (1, 2)), rel=1e-12
    )
    assert common.answer["lower_bound_s"] == answer["latency_s"] < common.answer["latency_s"]
    assert sum(row["server_s"] for row in answer["clients"]) == pytest.approx(
        seconds(mapping, points) / 3
        - max(row["before_s"] for row in answer["clients"])
        - max(row["after_s"] for row in answer["clients"])
    )


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("clients", 0, "downlink_rate_bps"), None, r"downlink_rate_bps of client fast is missing"),
        (("clients", 1, "uplink_rate_bps"), 0, r"uplink_rate_bps of client slow is 0"),
        (("clients", 1, "flop_rate"), None, r"flop_rate of client slow is missing"),
        (("cuts",), [], r"cuts"),
        (("cuts", 0, "split_point"), 1, r"cuts is .*one row per split point"),
        (("main_server", "flop_rate"), -1, r"main_server\.flop_rate is -1"),
        (("noise_psd_dbm_hz",), -174, r"noise_psd_dbm_hz is not a key"),
    ],
)
def test_what_it_cannot_mean_is_refused(path: tuple[Any, ...], value: Any, message: str) -> None:
    mapping: Any = copy.deepcopy(problem())
    place = mapping
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InputError, match=message):
        plan(mapping)


def test_a_client_that_holds_no_cut_is_named() -> None:
    mapping = problem()
    mapping["cuts"] = [row for row in mapping["cuts"] if row["split_point"] > 2]
    planned = plan(mapping)
    assert not isinstance(planned, list)
    assert planned.answer["status"] == "infeasible"
    assert "2 can take none of the cuts" in planned.answer["message"].lower()


def test_a_cell_gives_every_device_its_own_limit() -> None:
    """Memory limits each client's own cuts; one that holds no block is refused by name."""
    numbers = from_cell(HSFL).numbers
    assert [client["most_blocks"] for client in numbers["clients"]] == [11, 11, 11]
    assert [cut["split_point"] for cut in numbers["cuts"]] == list(range(1, 12))
    unlike = changed(HSFL, "clients.devices", ["jetson-orin-nano", "galaxy-s25"])
    small = changed(unlike, "training.batch_size", 120)
    limits = [client["most_blocks"] for client in from_cell(small).numbers["clients"]]
    assert len(set(limits)) > 1
    assert max(limits) == len(from_cell(small).numbers["cuts"])
    with pytest.raises(InputError, match="memory of client 0"):
        from_cell(changed(HSFL, "training.batch_size", 100_000))
    own, common = plan(HSFL), plan(HSFL, solver="common")
    assert not isinstance(own, list)
    assert not isinstance(common, list)
    assert own.answer["latency_s"] <= common.answer["latency_s"]
