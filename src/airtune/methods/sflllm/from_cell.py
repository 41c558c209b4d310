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
from airtune.planning.fields import POSITIVE, is_number
from airtune.planning.reading import Reader
from airtune.planning.scene import SMALLER, CellProblem, Scene, given, per_client
from airtune.planning.sections import read_dtype, read_scene
from airtune.quantities import SERVER_FLOP_RATE, dbm_to_watts, read_meant, refuse_unusual
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.decisions import split_candidates
from airtune.workload.transformer import split_workload

MOST_SUBCHANNELS = 10_000
DOWNLINKS = ("equal", "free")
"""`equal` shares of band and power; `free`: no download is charged, as in the published problem."""

_OWN = (
    "main_server",
    "federated_server",
    "rounds",
    "split_points",
    "activation_dtype",
    "downlink",
    "blocks",
)


def explicit(mapping: Mapping[str, Any]) -> CellProblem:
    """The explicit problem. Raises InputError, also where no split point fits the devices."""
    scene = read_scene(mapping, _OWN)
    top = Reader(mapping)
    rounds = _rounds(mapping.get("rounds"))
    if scene.rank is not None:
        remedy = "the ranks to choose from are the keys of rounds"
        raise InputError("adapter.rank", scene.rank, "left out for sflllm", remedy)
    downlink = top.text("downlink", DOWNLINKS[0])
    if downlink not in DOWNLINKS:
        raise InputError("downlink", downlink, f"one of {', '.join(DOWNLINKS)}")
    main = _server(mapping, "main_server", scene)
    federated = _server(mapping, "federated_server", scene)
    points, notices = _points_that_fit(scene, mapping.get("split_points"), rounds)
    candidates = _candidates(scene, rounds, points, read_dtype(top, "activation_dtype"))
    if scene.state.is_measured:
        remedy = "a trace has no gain to allot power by"
        raise InputError("cell.trace", "given", "left out for sflllm", remedy)
    if downlink == "free":
        candidates = [{**row, "gradient_bits": 0} for row in candidates]
    numbers = {
        "method": scene.method,
        "local_steps": scene.local_steps,
        "batch_size": scene.step.batch_size,
        **scene.noise(),
        **given(mapping, ("seed", "blocks")),
        "main_server": main,
        "federated_server": federated,
        "clients": per_client(scene, _clients(scene, downlink)),
        "candidates": candidates,
    }
    origin = (
        scene.origin(f"rank {', '.join(map(str, rounds))}"),
        "Each link has the whole band of the cell in equal subchannels, and the cell's gains.",
    )
    return CellProblem(numbers, origin, notices)


def _rounds(table: Any) -> dict[int, float]:
    """The table from rank to rounds, checked."""
    if not isinstance(table, Mapping) or not table:
        raise InputError(
            "rounds",
            "missing" if table is None else table,
            "a table from rank to the rounds until the target loss, such as {4: 40, 8: 35}",
            "measure it with a run for each rank",
        )
    for rank, rounds in table.items():
        if not is_number(rank) or rank != rank // 1 or rank < 1:
            raise InputError("a rank in rounds", rank, "a whole number >= 1")
        if not is_number(rounds) or not POSITIVE.holds(rounds):
            raise InputError(f"rounds of rank {rank}", rounds, POSITIVE.words)
    return {int(rank): rounds for rank, rounds in table.items()}


def _server(mapping: Mapping[str, Any], name: str, scene: Scene) -> dict[str, Any]:
    """A server with the cell's band in equal subchannels; by default all clients at full power."""
    section = Reader(mapping).section(name)
    server: dict[str, Any] = {}
    if name == "main_server":
        server["flop_rate"] = section.number("flop_rate", POSITIVE)
        given = mapping[name].get("unusual_values") if section.has("unusual_values") else None
        where = f"{name}.unusual_values"
        meant = read_meant(given, ("flop_rate",), where)
        refuse_unusual(f"{name}.flop_rate", server["flop_rate"], SERVER_FLOP_RATE, where, meant)
    subchannels = section.count("subchannels", most=MOST_SUBCHANNELS)
    server["subchannel_bandwidth_hz"] = [scene.cell.bandwidth_hz / subchannels] * subchannels
    everybody = float(dbm_to_watts(scene.tx_power_dbm).sum())
    server["total_power_w"] = section.level("total_power_w", default=everybody)
    section.close()
    return server


def _points_that_fit(
    scene: Scene, asked: Any, rounds: Mapping[int, float]
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


def _asked_points(scene: Scene, asked: Any) -> list[int]:
    """The split points to weigh, ascending: all of them by default."""
    last = scene.architecture.block_count - 1
    if last < 1:
        raise InputError("model", scene.model, "a model of at least 2 blocks for sflllm")
    if asked is None:
        return list(range(1, last + 1))
    allowed = f"a list of whole numbers from 1 to {last}"
    if not isinstance(asked, list | tuple) or not asked:
        raise InputError("split_points", asked, allowed)
    for point in asked:
        if not is_number(point) or point != point // 1 or not 1 <= point <= last:
            raise InputError("split_points", point, allowed)
    points = sorted({int(point) for point in asked})
    if len(points) < len(asked):
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
    return [candidate.row(rounds[candidate.rank]) for candidate in found]


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
