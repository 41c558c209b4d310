"""TSFA from a model and a cell: what a rank costs on the air, and before it.

Rank i of a client is the i-th rank of every adapted matrix together. `compute_delay_s` is all that
comes before the upload: the broadcast of the whole adapter and the local steps.
`fixed_payload_bits` is the frame, the mask and the report of energies of the rank-sparse update (at
all ranks; a frame of fewer may be 8 bytes shorter).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from airtune.errors import InputError
from airtune.methods.soft_tsfa.problem_file import TsfaCell, TsfaKeys
from airtune.planning.reading import scene_of
from airtune.planning.scene import CellProblem, Scene, of_one_band
from airtune.planning.sections import NOT_NEGATIVE
from airtune.ranges import number_list
from airtune.section import check
from airtune.workload.payload import WIRE_DTYPES, dtype_bits, frame_bytes, rank_bits, update_bits

ENERGY_EXPONENT = 1.5
"""Default spectrum: the energy of rank k = 1, 2, ... is in proportion to k^-1.5. Measured on one
round of the built-in experiment, ranks 4 to 16 (docs/planning-from-a-model.md)."""


def explicit(mapping: Mapping[str, Any]) -> CellProblem:
    """The explicit problem. Raises InputError, also for a device that cannot hold the training."""
    file = check(TsfaCell, mapping)
    scene = scene_of(file)
    energies = _energies(file.rank_energy, scene)
    assumed = file.rank_energy is None
    whole = update_bits(scene.architecture, scene.adapter, file.downlink_dtype)
    start_s = scene.broadcast_s(whole)
    ahead_s = start_s + scene.cell.round_trip_s
    delays = (ahead_s + scene.local_steps * scene.whole_step().flops / scene.flop_rate).tolist()
    rank, fixed = map(scene.air_bits, payload_bits(scene))
    numbers = of_one_band(
        scene,
        mapping,
        TsfaKeys,
        scene.weights(),
        scene.links(),
        [{"compute_delay_s": delay} for delay in delays],
        [{"rank_payload_bits": rank, "fixed_payload_bits": fixed}] * len(delays),
        [{"rank_energy": list(energy)} for energy in energies],
    )
    origin = (
        scene.origin(f"rank {scene.adapter.rank}"),
        f"compute_delay_s contains {start_s:.6g} s for the broadcast of {whole} bits at the worst "
        "client's rate over the band.",
        "fixed_payload_bits is the frame with the mask of ranks and the report of energies.",
        *scene.transfer_origin("compute_delay_s also contains the upload's"),
    )
    notice = (
        f"rank_energy is assumed, not measured: rank k = 1, 2, ... carries energy in proportion to "
        f"k^-{ENERGY_EXPONENT:g}, the same for every client."
    )
    return CellProblem(numbers, origin, (notice,) if assumed else ())


def default_energy(rank: int) -> list[float]:
    """`k^-1.5` for k = 1 .. rank, divided by the sum."""
    energy = np.arange(1, rank + 1) ** -ENERGY_EXPONENT
    shares: list[float] = (energy / energy.sum()).tolist()
    return shares


def payload_bits(scene: Scene) -> tuple[int, int]:
    """Bits of one rank of every matrix, and of what an update holds besides its ranks."""
    by_matrix = rank_bits(scene.architecture, scene.adapter, scene.uplink_dtype)
    rank = sum(by_matrix.values())
    whole = scene.adapter.rank * rank
    reported = scene.adapter.rank * len(by_matrix)
    frame = frame_bytes(
        {
            "update": (WIRE_DTYPES[scene.uplink_dtype], [whole // dtype_bits(scene.uplink_dtype)]),
            "mask": ("U8", [-(-reported // 8)]),
            "energy": ("F16", [reported]),
        }
    )
    return rank, 8 * frame - whole


def _energies(value: Any, scene: Scene) -> Sequence[Sequence[float]]:
    """Energies [client][rank]: one list for all clients, or one for each."""
    rank, clients = scene.adapter.rank, len(scene.devices)
    if value is None:
        return [default_energy(rank)] * clients
    nested = isinstance(value, list | tuple) and any(isinstance(row, list | tuple) for row in value)
    if nested and len(value) != clients:
        allowed = f"one list for all clients, or {clients} lists"
        raise InputError("rank_energy", f"{len(value)} lists", allowed)
    rows = value if nested else [value] * clients
    return [_row(row, rank) for row in rows]


def _row(value: Any, rank: int) -> list[float]:
    energy = number_list(value, "rank_energy", NOT_NEGATIVE, None)
    if len(energy) != rank:
        raise InputError(
            "rank_energy",
            f"a list of {len(energy)}",
            f"one for each of {rank} ranks",
            "adapter.rank says how many there are",
        )
    row: list[float] = energy.tolist()
    return row
