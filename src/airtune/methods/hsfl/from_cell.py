"""A cut for every client from a model and a cell, at equal shares of band and downlink power.

A client's own memory limits its own cuts. In a run shares of the band are planned together with
the cuts; here the rates are given, so that the choice is exact.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from airtune.errors import InputError
from airtune.methods.hsfl.problem_file import HsflCell
from airtune.planning.reading import scene_of
from airtune.planning.scene import SMALLER, CellProblem, Scene, per_client
from airtune.section import check
from airtune.workload.decisions import split_candidates
from airtune.workload.transformer import split_workload


def explicit(mapping: Mapping[str, Any]) -> CellProblem:
    """The explicit problem. Raises InputError, also where not even one block fits a device."""
    file = check(HsflCell, mapping)
    scene = scene_of(file)
    if scene.architecture.block_count < 2:
        raise InputError("model", scene.model, "a model of at least 2 blocks to split")
    points, most = _points(scene)
    found = split_candidates(
        scene.architecture,
        scene.step.tokens,
        [scene.adapter.rank],
        points,
        scene.targets,
        file.activation_dtype,
        scene.uplink_dtype,
    )
    keys = (
        "split_point",
        "client_forward_flops",
        "client_backward_flops",
        "server_forward_flops",
        "server_backward_flops",
    )
    cuts = [
        {key: getattr(candidate, key) for key in keys}
        | {
            "activation_bits": scene.air_bits(candidate.activation_bits),
            "gradient_bits": scene.air_bits(candidate.gradient_bits),
        }
        for candidate in found
    ]
    trip_s = scene.cell.round_trip_s
    numbers = {
        "method": scene.method,
        "local_steps": scene.local_steps,
        "batch_size": scene.step.batch_size,
        **({"round_trip_s": trip_s} if trip_s else {}),
        "main_server": {"flop_rate": file.main_server.flop_rate},
        "clients": per_client(scene, _clients(scene, most)),
        "cuts": cuts,
    }
    origin = (
        scene.origin(f"rank {scene.adapter.rank}"),
        "Rates are those of equal shares of the band, on the downlink of its power as well.",
        *scene.transfer_origin("Every transfer begins with a"),
    )
    return CellProblem(numbers, origin)


def _points(scene: Scene) -> tuple[list[int], list[int]]:
    """The cuts that any device can take, and the most blocks of each client's."""
    points = list(range(1, scene.architecture.block_count))
    needed = [
        split_workload(
            scene.architecture, scene.adapter, scene.step, point, precision=scene.precision
        )[0].memory_bytes
        for point in points
    ]
    scene.require_memory(needed[0], "on a client at split point 1", SMALLER)
    # A half with more blocks needs more memory.
    most = [
        int(np.searchsorted(needed, device.usable_memory_bytes, side="right"))
        for device in scene.devices
    ]
    return points[: max(most)], most


def _clients(scene: Scene, most: list[int]) -> list[dict[str, float]]:
    """Rates at equal shares, speed, and what memory holds."""
    up_bps, down_bps = scene.equal_share_rates_bps()
    columns = zip(scene.flop_rate, up_bps, down_bps, most, strict=True)
    return [
        {
            "flop_rate": float(speed),
            "uplink_rate_bps": float(up),
            "downlink_rate_bps": float(down),
            "most_blocks": blocks,
        }
        for speed, up, down, blocks in columns
    ]
