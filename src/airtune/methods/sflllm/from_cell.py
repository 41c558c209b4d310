"""SflLLM from a model and a cell: candidates per split point and rank, links of equal subchannels.

The ranks are the keys of `rounds`, which maps each to the global rounds until the target loss;
that has to be measured, so it has no default. Split points whose client half does not fit the
smallest device are left out with a notice. Both servers are behind the cell's base station: both
links have its gains, and each has the whole band, since uploads of activations and of adapters
never overlap. On the downlink every client has an equal share of band and power.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from airtune.errors import InputError
from airtune.methods.sflllm.problem_file import (
    CellFederatedServer,
    CellMainServer,
    SflllmCell,
)
from airtune.planning.reading import scene_of
from airtune.planning.scene import SMALLER, CellProblem, Scene, per_client
from airtune.quantities import dbm_to_watts
from airtune.section import check
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.decisions import split_candidates
from airtune.workload.transformer import split_workload


def explicit(mapping: Mapping[str, Any]) -> CellProblem:
    """The explicit problem. Raises InputError, also where no split point fits the devices."""
    file = check(SflllmCell, mapping)
    scene, rounds = scene_of(file), dict(file.rounds)
    if scene.rank is not None:
        remedy = "the ranks to choose from are the keys of rounds"
        raise InputError("adapter.rank", scene.rank, "left out for sflllm", remedy)
    main, federated = _server(file.main_server, scene), _server(file.federated_server, scene)
    points, notices = _points_that_fit(scene, file.split_points, rounds)
    candidates = _candidates(scene, rounds, points, file.activation_dtype)
    if scene.state.is_measured:
        remedy = "a trace has no gain to allot power by"
        raise InputError("cell.trace", "given", "left out for sflllm", remedy)
    if file.downlink == "free":
        candidates = [{**row, "gradient_bits": 0} for row in candidates]
    trip_s = scene.cell.round_trip_s
    numbers = {
        "method": scene.method,
        "local_steps": scene.local_steps,
        "batch_size": scene.step.batch_size,
        **scene.noise(),
        **{key: mapping[key] for key in ("seed", "blocks") if mapping.get(key) is not None},
        **({"round_trip_s": trip_s} if trip_s else {}),
        "main_server": main,
        "federated_server": federated,
        "clients": per_client(scene, _clients(scene, file.downlink)),
        "candidates": candidates,
    }
    origin = (
        scene.origin(f"rank {', '.join(map(str, rounds))}"),
        "Each link has the whole band of the cell in equal subchannels, and the cell's gains.",
        *scene.transfer_origin("Every transfer begins with a"),
    )
    return CellProblem(numbers, origin, notices)


def _server(section: CellFederatedServer, scene: Scene) -> dict[str, Any]:
    """A server with the cell's band in equal subchannels; by default all clients at full power."""
    server: dict[str, Any] = {}
    if isinstance(section, CellMainServer):
        server["flop_rate"] = section.flop_rate
    width = scene.cell.bandwidth_hz / section.subchannels
    server["subchannel_bandwidth_hz"] = [width] * section.subchannels
    together_w = float(dbm_to_watts(scene.tx_power_dbm).sum())
    server["total_power_w"] = section.level("total_power_w", default=together_w)
    return server


def _points_that_fit(
    scene: Scene, asked: Sequence[int] | None, rounds: Mapping[int, float]
) -> tuple[list[int], tuple[str, ...]]:
    """Split points whose client half fits every device at the largest rank, and what was left out.

    A half with more blocks needs more memory, so the points that fit come first.
    """
    points = _asked_points(scene, asked)
    adapter = AdapterShape(max(rounds), scene.targets)
    adapter.adaptation(scene.architecture)
    usable = min(device.usable_memory_bytes for device in scene.devices)

    def needed(point: int) -> int:
        half, _ = split_workload(
            scene.architecture, adapter, scene.step, point, precision=scene.precision
        )
        return half.memory_bytes

    fitting = points[: bisect_right(points, usable, key=needed)]
    if not fitting:
        where = f"on a client at split point {points[0]}"
        scene.require_memory(needed(points[0]), where, SMALLER)
    if len(fitting) == len(points):
        return points, ()
    return fitting, (
        f"Split points of {scene.model} above {fitting[-1]} are left out: their client half does "
        "not fit the memory of every device.",
    )


def _asked_points(scene: Scene, asked: Sequence[int] | None) -> list[int]:
    """The split points to weigh, ascending: all of them by default."""
    last = scene.architecture.block_count - 1
    if last < 1:
        raise InputError("model", scene.model, "a model of at least 2 blocks for sflllm")
    if asked is None:
        return list(range(1, last + 1))
    allowed = f"a list of whole numbers from 1 to {last}"
    for point in asked:
        if not 1 <= point <= last:
            raise InputError("split_points", point, allowed)
    points = sorted(set(asked))
    if not points or len(points) < len(asked):
        raise InputError("split_points", asked, f"{allowed}, each given once")
    return points


def _candidates(
    scene: Scene, rounds: Mapping[int, float], points: Sequence[int], activation_dtype: str
) -> list[dict[str, float]]:
    """One row per split point and rank, counts per sample."""
    found = split_candidates(
        scene.architecture,
        scene.step.tokens,
        rounds,
        points,
        scene.targets,
        activation_dtype,
        scene.uplink_dtype,
    )
    rows = [candidate.row(rounds[candidate.rank]) for candidate in found]
    messages = ("activation_bits", "gradient_bits", "adapter_bits")
    return [{**row, **{key: scene.air_bits(row[key]) for key in messages}} for row in rows]


def _clients(scene: Scene, downlink: str) -> list[dict[str, float]]:
    share = scene.downlink_rate_bps() / len(scene.devices)
    columns = zip(
        scene.flop_rate.tolist(),
        scene.tx_power_dbm.tolist(),
        scene.gain_db(),
        share.tolist(),
        strict=True,
    )
    return [
        {
            "flop_rate": flop_rate,
            "power_max_dbm": power_dbm,
            "main_gain_db": gain_db,
            "federated_gain_db": gain_db,
            **({"downlink_rate_bps": rate_bps} if downlink == "equal" else {}),
        }
        for flop_rate, power_dbm, gain_db, rate_bps in columns
    ]
