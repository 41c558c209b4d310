"""Latency and energy from a model and a cell: what each client computes, sends and draws.

A round of client n: the broadcast of the whole adapter (`fixed_delay_s`), `local_steps` steps at
its device's rate, and its update; both of a model pruned by `pruning_rate`, where that is given.
Powers are those of the device's profile.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from airtune.cost.device import DeviceProfile, known_idle_power_w, power_at
from airtune.methods.latency_energy.problem import EnergyCell, EnergyKeys
from airtune.planning.reading import scene_of
from airtune.planning.scene import SMALLER, CellProblem, Scene, of_one_band
from airtune.ranges import Range, number_list
from airtune.section import check
from airtune.workload.architecture import require_prunable
from airtune.workload.payload import update_bits
from airtune.workload.transformer import workload


def explicit(mapping: Mapping[str, Any]) -> CellProblem:
    """The explicit problem. Raises InputError, also for a device that cannot hold the training."""
    file = check(EnergyCell, mapping)
    scene = scene_of(file)
    rates = _rates(file, len(scene.devices))
    if any(rates):
        require_prunable(scene.architecture, "model")
    whole = update_bits(scene.architecture, scene.adapter, file.downlink_dtype)
    start_s = scene.broadcast_s(whole) + scene.cell.round_trip_s
    work = {rate: _work(scene, rate) for rate in set(rates)}
    numbers = of_one_band(
        scene,
        mapping,
        EnergyKeys,
        scene.links(),
        [{"fixed_delay_s": start_s}] * len(rates),
        [
            {
                "compute_delay_s": work[rate][0] / speed,
                "payload_bits": scene.air_bits(work[rate][1]),
            }
            for rate, speed in zip(rates, scene.flop_rate.tolist(), strict=True)
        ],
        [_powers(scene, index, file) for index in range(len(rates))],
    )
    origin = (
        scene.origin(f"rank {scene.adapter.rank}"),
        f"fixed_delay_s is the broadcast of {whole} bits at the worst client's rate over the band.",
        "compute_delay_s is at full speed; powers are those of the device profiles.",
        *scene.transfer_origin("fixed_delay_s also contains the upload's"),
    )
    return CellProblem(numbers, origin)


def _rates(file: EnergyCell, count: int) -> list[float]:
    """The pruning rate of each client."""
    given, allowed = np.asarray(file.pruning_rate).tolist(), Range(least=0, below=1)
    rates: list[float] = number_list(given, "pruning_rate", allowed, count).tolist()
    return rates


def _work(scene: Scene, rate: float) -> tuple[float, float]:
    """FLOPs of a round's steps and bits of the update, of a model pruned at this rate."""
    model = scene.architecture, scene.adapter
    step = workload(*model, scene.step, rate, scene.precision)
    scene.require_memory(step.memory_bytes, f"at pruning_rate {rate:g}", SMALLER)
    bits = update_bits(*model, scene.uplink_dtype, rate)
    return float(scene.local_steps * step.flops), float(bits)


def _powers(scene: Scene, index: int, file: EnergyCell) -> dict[str, float]:
    """What a client's device draws while it waits, computes and sends."""
    device: DeviceProfile = scene.devices[index]
    powers = {"idle_power_w": known_idle_power_w(device), "full_power_w": power_at(device, 1.0)}
    if scene.state.is_measured:
        # Its efficiency was measured at a power that the trace does not name.
        powers["sending_power_w"] = device.tx_power_w / file.amplifier_efficiency
    return powers
