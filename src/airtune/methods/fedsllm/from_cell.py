"""FedsLLM from a model and a cell: one local iteration, and the whole adapter's upload.

A local iteration is `training.local_steps` steps (default 1) of the whole model on the client: the
problem has one payload per round, so it cannot express the activations of a split. The broadcast
is not charged, as in the published problem.
"""

from collections.abc import Mapping
from typing import Any

from airtune.methods.fedsllm.problem import FedsllmCell, FedsllmKeys
from airtune.planning.reading import scene_of
from airtune.planning.scene import CellProblem, of_one_band
from airtune.section import check
from airtune.workload.payload import update_bits


def explicit(mapping: Mapping[str, Any]) -> CellProblem:
    """The explicit problem. Raises InputError, also for a device that cannot hold the training."""
    scene = scene_of(check(FedsllmCell, mapping))
    delays = (scene.local_steps * scene.whole_step().flops / scene.flop_rate).tolist()
    bits = scene.air_bits(update_bits(scene.architecture, scene.adapter, scene.uplink_dtype))
    trip_s = scene.cell.round_trip_s
    numbers = of_one_band(
        scene,
        mapping,
        FedsllmKeys,
        scene.links(),
        [{"compute_delay_s": delay, "payload_bits": bits} for delay in delays],
        [{"fixed_delay_s": trip_s} if trip_s else {}] * len(delays),
    )
    origin = (
        scene.origin(f"rank {scene.adapter.rank}"),
        "compute_delay_s is one local iteration on the whole model; no broadcast is charged.",
        *scene.transfer_origin("fixed_delay_s is the upload's"),
    )
    return CellProblem(numbers, origin)
