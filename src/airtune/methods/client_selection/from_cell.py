"""Client selection from a model and a cell: what each client computes and sends.

A round of client n: the broadcast of the whole adapter (`fixed_delay_s`), `local_steps` steps at
its device's rate, and its update. Its weight are its examples.
"""

from collections.abc import Mapping
from typing import Any

from airtune.methods.client_selection.problem import SelectionCell, SelectionKeys
from airtune.planning.reading import scene_of
from airtune.planning.scene import CellProblem, of_one_band
from airtune.section import check
from airtune.workload.payload import update_bits


def explicit(mapping: Mapping[str, Any]) -> CellProblem:
    """The explicit problem. Raises InputError, also for a device that cannot hold the training."""
    file = check(SelectionCell, mapping)
    scene = scene_of(file)
    flops = scene.local_steps * scene.whole_step().flops
    whole = update_bits(scene.architecture, scene.adapter, file.downlink_dtype)
    bits = update_bits(scene.architecture, scene.adapter, scene.uplink_dtype)
    start_s = scene.broadcast_s(whole) + scene.cell.round_trip_s
    count = len(scene.devices)
    numbers = of_one_band(
        scene,
        mapping,
        SelectionKeys,
        scene.weights(),
        scene.links(),
        [{"fixed_delay_s": start_s}] * count,
        [{"compute_delay_s": flops / rate} for rate in scene.flop_rate.tolist()],
        [{"payload_bits": scene.air_bits(float(bits))}] * count,
    )
    origin = (
        scene.origin(f"rank {scene.adapter.rank}"),
        f"fixed_delay_s is the broadcast of {whole} bits at the worst client's rate over the band.",
        *scene.transfer_origin("fixed_delay_s also contains the upload's"),
    )
    return CellProblem(numbers, origin)
