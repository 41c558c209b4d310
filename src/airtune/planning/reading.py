"""The scene of a problem that names a model, a cell and devices."""

from pathlib import Path
from typing import Any

from airtune.cost.device import DeviceProfile, find_device, load_devices, refuse_unnamed
from airtune.errors import InputError
from airtune.planning.scene import Scene
from airtune.planning.sections import POSITIVE, CellSection, PlannedClients, WeightedClients
from airtune.quantities import FloatArray
from airtune.ranges import number_list
from airtune.wireless.unused import refuse_unused_cell_keys
from airtune.workload.architecture import Decoder, load_architecture
from airtune.workload.precision import Precision
from airtune.workload.step import Step

MOST_DRAWS = 50_000
"""Channels of single clients that may be drawn to reach a round: some seconds, with 3GPP fading."""
MEAN = "mean"
"""`round: mean`: the gains without small-scale fading."""


def scene_of(file: CellSection) -> Scene:
    """The model, the cell full of devices and the step that a problem names.

    Raises InputError for what its keys cannot mean together, or beside the model.
    """
    count = file.clients.count
    architecture = load_architecture(file.model)
    targets = file.adapter.target_modules
    refuse_unused_cell_keys(file.cell)
    scene = Scene(
        method=file.method,
        model=file.model,
        architecture=architecture,
        rank=file.adapter.rank if "rank" in file.adapter.model_fields_set else None,
        targets=targets if isinstance(targets, str) else tuple(targets),
        step=_step(architecture, file.training.batch_size, file.tokens),
        local_steps=file.training.local_steps,
        precision=Precision(
            file.dtype,
            file.training.optimizer,
            compute=file.compute_dtype,
            checkpointing=file.training.gradient_checkpointing,
            micro_batches=file.training.gradient_accumulation,
        ),
        uplink_dtype=file.uplink_dtype,
        cell=file.cell,
        devices=_devices(file.clients),
        examples=_examples(file.clients),
        round_index=_round(file.round, count),
        seed=file.seed,
    )
    scene.adapter.ranks(architecture)
    return scene


def _round(index: Any, clients: int) -> int | None:
    """The round whose channel is planned for; None for the mean of the fading.

    Channels are drawn round by round, so a late round of many clients would take very long.
    """
    if index == MEAN:
        return None
    latest = MOST_DRAWS // clients - 1
    if index > latest:
        raise InputError(
            "round",
            index,
            f"at most {latest} with {clients} clients, or {MEAN}",
            f"its channel comes after {index} others, which would all have to be drawn",
        )
    return int(index)


def _devices(clients: PlannedClients) -> tuple[DeviceProfile, ...]:
    """Profiles assigned to the clients round-robin."""
    own = None if clients.device_file is None else Path(clients.device_file)
    refuse_unnamed(own, clients.devices)
    known = load_devices(own)
    kinds = [find_device(name, known) for name in clients.devices]
    return tuple(kinds[client % len(kinds)] for client in range(clients.count))


def _examples(clients: PlannedClients) -> FloatArray | None:
    """What each client holds; None where all are alike."""
    if not isinstance(clients, WeightedClients) or clients.examples is None:
        return None
    given = clients.examples.tolist()
    return number_list(given, "clients.examples", POSITIVE, clients.count)


def _step(architecture: Decoder, batch_size: int, tokens: int) -> Step:
    if tokens > architecture.max_tokens:
        allowed = f"at most {architecture.max_tokens}, the model's own limit"
        raise InputError("tokens", tokens, allowed)
    return Step(batch_size, tokens)
