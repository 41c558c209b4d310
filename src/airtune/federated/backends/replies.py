"""What comes back with the updates: reports for the next plan, and what clients keep for later."""

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from airtune.federated.backends.backend import ClientReport, ClientTask
from airtune.federated.checks.guard import asked
from airtune.update.codec import Codec, Shapes
from airtune.update.error_feedback import add_lost, holds_residual


def reported(
    codec: Codec, tasks: Sequence[ClientTask], reports: Mapping[int, ClientReport], shapes: Shapes
) -> dict[int, list[float]]:
    """What these clients said beside their updates; the codec is bound to the round."""
    said = {}
    for task in tasks:
        with asked("codec", codec, task.round_index, task.client):
            said[task.client] = codec.reported(reports[task.client].payload, shapes)
    return {client: numbers for client, numbers in said.items() if numbers is not None}


def carried_over(
    codec: Codec,
    tasks: Sequence[ClientTask],
    reports: Mapping[int, ClientReport],
    in_time: Collection[int],
    shapes: Shapes,
) -> dict[int, Mapping[str, Tensor]]:
    """What clients keep for their next round; an update that came too late goes back to them."""
    kept: dict[int, Mapping[str, Tensor]] = {}
    for task in tasks:
        report = reports[task.client]
        carried = report.carried
        if task.client not in in_time and holds_residual(carried):
            with asked("codec", codec, task.round_index, task.client):
                carried = add_lost(carried, codec.decode(report.payload, shapes, task.plan))
        if carried:
            kept[task.client] = carried
    return kept
