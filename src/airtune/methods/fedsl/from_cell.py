"""What crosses the cut from a model and a cell, at equal shares of band and downlink power."""

from collections.abc import Mapping
from typing import Any

from airtune.methods.fedsl.problem_file import FedslCell, ThinningKeys
from airtune.planning.reading import scene_of
from airtune.planning.scene import SMALLER, CellProblem, given, per_client
from airtune.section import check
from airtune.workload.transformer import split_workload


def explicit(mapping: Mapping[str, Any]) -> CellProblem:
    """The explicit problem. Raises InputError, also where the half does not fit a device."""
    file = check(FedslCell, mapping)
    scene = scene_of(file)
    half, _ = split_workload(
        scene.architecture,
        scene.adapter,
        scene.step,
        file.split_point,
        precision=scene.precision,
    )
    where = f"on a client at split point {file.split_point}"
    scene.require_memory(half.memory_bytes, where, SMALLER)
    up_bps, down_bps = scene.equal_share_rates_bps()
    # Protocol heads lengthen every message alike, as if the rates were lower.
    heads = float(scene.transfer.air_bits(1.0))
    trip_s, speed = scene.cell.round_trip_s, scene.flop_rate
    columns = [
        {
            "before_s": float(half.forward_flops / speed[client]) + trip_s,
            "after_s": float(half.backward_flops / speed[client]) + trip_s,
            "uplink_rate_bps": float(up_bps[client]) / heads,
            "downlink_rate_bps": float(down_bps[client]) / heads,
            "tokens": scene.step.batch_size * scene.step.tokens,
        }
        for client in range(len(scene.devices))
    ]
    numbers = {
        "method": scene.method,
        **given(mapping, ThinningKeys),
        "hidden_size": scene.architecture.hidden_size,
        "clients": per_client(scene, columns),
    }
    origin = (
        scene.origin(f"rank {scene.adapter.rank}"),
        f"The cut is after block {file.split_point}; rates are those of equal shares of the band.",
        *scene.transfer_origin("Every transfer begins with a"),
    )
    return CellProblem(numbers, origin)
