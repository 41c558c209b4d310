"""JCPBA from a model and a cell: what pruning saves, counted from the model's config.

A round of client n: the broadcast of the whole adapter (`fixed_delay_s`), `local_steps` steps at
its device's rate, and its update. Both depend on the pruning rate as `fixed + (1 - rho) prunable`
(workload/decisions.py), before whole units are rounded. `pruning_rate_min` is the least rate at
which a step fits the device's usable memory.
"""

from collections.abc import Mapping
from typing import Any

from airtune.methods.jcpba.problem import JcpbaCell, JcpbaKeys
from airtune.planning.reading import scene_of
from airtune.planning.scene import SMALLER, CellProblem, Scene, of_one_band
from airtune.section import check
from airtune.workload.decisions import (
    affine_flops,
    affine_update_bits,
    distinct_rates,
    rate_that_fits,
)
from airtune.workload.payload import update_bits
from airtune.workload.transformer import workload


def explicit(mapping: Mapping[str, Any]) -> CellProblem:
    """The explicit problem. Raises InputError, also for a device too small at any allowed rate."""
    file = check(JcpbaCell, mapping)
    scene = scene_of(file)
    floors = _floors(scene, file.pruning_rate_max)
    whole = update_bits(scene.architecture, scene.adapter, file.downlink_dtype)
    bits = affine_update_bits(scene.architecture, scene.adapter, scene.uplink_dtype)
    payload = {
        "fixed": scene.air_bits(bits.fixed),
        "prunable": scene.air_bits(bits.prunable),
    }
    start_s = scene.broadcast_s(whole) + scene.cell.round_trip_s
    numbers = of_one_band(
        scene,
        mapping,
        JcpbaKeys,
        scene.weights(),
        scene.links(),
        [{"fixed_delay_s": start_s}] * len(floors),
        [{"pruning_rate_min": floor} for floor in floors],
        [{"compute_delay_s": delay} for delay in _compute(scene)],
        [{"payload_bits": dict(payload)} for _ in floors],
    )
    origin = (
        scene.origin(f"rank {scene.adapter.rank}"),
        f"fixed_delay_s is the broadcast of {whole} bits at the worst client's rate over the band.",
        "pruning_rate_min is the least rate at which a step fits the device's usable memory.",
        *scene.transfer_origin("fixed_delay_s also contains the upload's"),
    )
    return CellProblem(numbers, origin)


def _compute(scene: Scene) -> list[dict[str, float]]:
    """All local steps of a round, s."""
    checkpointing = scene.precision.checkpointing
    flops = affine_flops(scene.architecture, scene.adapter, scene.step, checkpointing)
    return [
        {
            "fixed": scene.local_steps * flops.fixed / rate,
            "prunable": scene.local_steps * flops.prunable / rate,
        }
        for rate in scene.flop_rate.tolist()
    ]


def _floors(scene: Scene, rate_max: float) -> list[float]:
    """The memory floor of every client's pruning rate, once for each kind of device."""
    model = scene.architecture, scene.adapter, scene.step
    highest = min(rate_max, distinct_rates(scene.architecture)[-1])
    least = workload(*model, highest, scene.precision).memory_bytes
    scene.require_memory(least, f"at pruning_rate_max {rate_max:g}", SMALLER)
    usable = [device.usable_memory_bytes for device in scene.devices]
    floors = {size: rate_that_fits(*model, size, scene.precision) for size in set(usable)}
    return [floors[size] for size in usable]
