"""One round of split training: the cohort's client halves and the main server's half together.

In the manner of SflLLM (Zhao et al., arXiv 2504.14667) on SplitFed (Thapa et al., arXiv
2004.12088, algorithms 1 and 2): in every local step each client sends activations up, the main
server runs the rest and sends the gradient down, and both sides take a step. Afterwards the
federated server averages the client halves (`airtune.update.means`). Nothing here depends on a
radio or a clock; what crosses the cut is encoded, and its bits are counted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from airtune.errors import ClientLostError, InputError
from airtune.tuning.adapter import AdapterState
from airtune.tuning.local import TrainingSettings
from airtune.tuning.split.aggregation import JointStep, joint_step
from airtune.tuning.split.client import ClientHalf, ServedClient, SplitClient, SplitReport
from airtune.tuning.split.halves import ServerHalf
from airtune.tuning.split.model import CutLink, SplitModel

SERVER_SIDES = ("shared", "copies")
LABEL_HOLDERS = ("server", "client")


@dataclass(frozen=True)
class SplitSettings:
    """`shared` is SplitFed v2, one server side that steps once on all clients' batches; `copies`
    is v1, one server side per client, averaged at the end of the round. With labels at the
    `client` (U-shaped), LM head and loss are there, too. `keeps_own`: client halves are not
    averaged in every round; a client then goes on with its own until it is sent the mean again.
    A share `aggregation_ratio` of the rows has gradients that are aggregated over clients
    (`aggregation.py`); with `compares` the first step of a round is held against the exact one."""

    server_side: str = "shared"
    labels_at: str = "server"
    keeps_own: bool = False
    aggregation_ratio: float = 0.0
    compares: bool = False

    def __post_init__(self) -> None:
        for key, value, allowed in (
            ("server_side", self.server_side, SERVER_SIDES),
            ("labels_at", self.labels_at, LABEL_HOLDERS),
        ):
            if value not in allowed:
                raise InputError(key, value, f"one of {', '.join(allowed)}")
        if self.aggregates and (self.server_side, self.labels_at) != ("shared", "server"):
            raise InputError(
                "aggregation_ratio",
                self.aggregation_ratio,
                "0 unless server_side is shared and labels_at server",
                "gradients at the logits are added up in one server side that has the labels",
            )

    @property
    def aggregates(self) -> bool:
        """Whether steps go by `joint_step`."""
        return self.aggregation_ratio > 0 or self.compares


@dataclass(frozen=True)
class SplitRound:
    """What a round leaves behind: reports in the order of the clients, and the main server's part
    of the adapter, from the earliest cut on; `measured` are numbers of its training."""

    reports: tuple[SplitReport, ...]
    server: AdapterState
    server_carried: Mapping[str, Tensor]
    measured: Mapping[str, float] = field(default_factory=dict)


def split_round(
    model: SplitModel,
    start: AdapterState,
    clients: Sequence[SplitClient],
    training: TrainingSettings,
    cut: CutLink,
    settings: SplitSettings,
    *,
    seed: int,
    round_index: int,
    server_carried: Mapping[str, Tensor] | None = None,
) -> SplitRound:
    """Run every client's local steps from the whole adapter `start`, all clients in step.

    Clients with a `link` run their half elsewhere; one that is lost on the way is left out from
    then on and has no report.

    A client half trains on the mean loss over its own batch's label tokens, each block of the
    shared server side on the mean over the label tokens of the clients that it is run for: one SGD
    step, and client halves averaged by label tokens, are one step on the union of the
    batches, whatever the cuts. Gradients are clipped half by
    half, since no side has the other's norm. A shared server side keeps its optimiser's moments
    in `server_carried`, if the training settings keep them. Raises InputError for a split point
    that the model does not have.
    """
    if len({client.steps for client in clients}) != 1:
        raise ValueError("clients of a split round take the same number of steps, and at least one")
    make_half = partial(
        ClientHalf,
        model,
        start,
        training=training,
        cut=cut,
        keeps_labels=settings.labels_at == "client",
        seed=seed,
        round_index=round_index,
    )
    served = {
        client.client: ServedClient(
            client.link or make_half(client), client, cut, seed, round_index
        )
        for client in clients
    }
    make_server = partial(
        ServerHalf, model, start, training=training, seed=seed, round_index=round_index
    )
    points = {client.client: client.split_point for client in clients}
    shared = settings.server_side == "shared"
    groups = [points] if shared else [{client: point} for client, point in points.items()]
    servers = [make_server(split_points=group, carried=server_carried or {}) for group in groups]
    # Smaller models are copies: each has modules of its own for LoRA's dropout.
    models = {id(each): each for each in (model, *(c.model for c in clients)) if each is not None}
    with torch.random.fork_rng(devices=[]), ExitStack() as on:
        for each in models.values():
            on.enter_context(each.dropout())
        return _trained(clients, served, servers, settings)


def _trained(
    clients: Sequence[SplitClient],
    served: dict[int, ServedClient],
    servers: Sequence[ServerHalf],
    settings: SplitSettings,
) -> SplitRound:
    """All local steps of a round; ClientLostError where no client is left at the end."""
    shared, keeps_labels = settings.server_side == "shared", settings.labels_at == "client"
    joint: list[JointStep] = []
    for step in range(clients[0].steps):
        for server in servers:
            if settings.aggregates:
                joint += _aggregated_step(server, served, step, settings)
            else:
                _step(server, served, step, keeps_labels)
    reports = _ask(served, list(served), lambda half: half.report())
    if not reports:
        raise ClientLostError("every client of the round")
    weights = {client.client: client.weight for client in clients if client.client in reports}
    return SplitRound(
        tuple(reports.values()),
        servers[0].half.state() if shared else _mean_of_copies(servers, weights),
        servers[0].half.moments() if shared else {},
        _measured(joint),
    )


def _measured(joint: Sequence[JointStep]) -> dict[str, float]:
    """Means over the steps of a round; nothing where no gradient was aggregated."""
    if not joint:
        return {}
    rows = sum(step.backward_rows for step in joint) / len(joint)
    cosines = [step.cosine for step in joint if step.cosine is not None]
    return {"backward_rows": rows, **({"cosine": cosines[0]} if cosines else {})}


Answer = TypeVar("Answer")


def _ask(
    served: dict[int, ServedClient],
    clients: Iterable[int],
    action: Callable[[ServedClient], Answer],
) -> dict[int, Answer]:
    """What each of these clients answers; one that is lost is served no more."""
    answers = {}
    for client in clients:
        if client in served:
            try:
                answers[client] = action(served[client])
            except ClientLostError:
                del served[client]
    return answers


def _step(
    server: ServerHalf, served: dict[int, ServedClient], step: int, keeps_labels: bool
) -> None:
    """Activations up, the server's forward and backward, gradient down; all parties step.

    Each message goes to all clients before the next is waited for, so that they compute at the
    same time.
    """
    ask = partial(_ask, served)
    messages = ask(server.split_points, lambda half: half.receive_activations(step))
    if not messages:
        return
    hidden = server.forward(messages, step)
    if keeps_labels:
        real = {client: message.real for client, message in messages.items()}
        ask(
            hidden,
            lambda half: half.send_hidden(hidden[half.client.client], real[half.client.client]),
        )
        returned = ask(hidden, lambda half: half.receive_hidden_gradient(real[half.client.client]))
        messages = {client: messages[client] for client in returned}
        if not messages:
            return
        kept = {client: hidden[client] for client in returned}
        gradients = server.step_on_gradients(kept, returned, messages)
    else:
        losses = server.losses(hidden, messages)
        gradients = server.step_on_losses(losses, messages)
        for client, loss in losses.items():
            served[client].note_loss(float(loss.detach()) / messages[client].label_tokens)
    ask(
        gradients,
        lambda half: half.send_gradient(
            gradients[half.client.client], messages[half.client.client].real
        ),
    )


def _aggregated_step(
    server: ServerHalf, served: dict[int, ServedClient], step: int, settings: SplitSettings
) -> list[JointStep]:
    """`_step` with gradients aggregated over clients; nothing where no client is left."""
    messages = _ask(served, server.split_points, lambda half: half.receive_activations(step))
    if not messages:
        return []
    compare = settings.compares and step == 0
    joint = joint_step(server, messages, step, settings.aggregation_ratio, compare=compare)
    for client, loss in joint.losses.items():
        served[client].note_loss(loss)

    def send(half: ServedClient) -> None:
        if joint.shared is not None:
            half.send_shared(joint.shared)
        gradient = joint.gradients[half.client.client]
        if gradient is None:
            half.send_no_gradient()
        else:
            half.send_gradient(gradient, joint.rest[half.client.client])

    _ask(served, messages, send)
    return [joint]


def _mean_of_copies(servers: Sequence[ServerHalf], weights: Mapping[int, float]) -> AdapterState:
    """Each tensor's weighted mean over the copies that hold it, in the order of the clients."""
    totals: dict[str, Tensor] = {}
    held: dict[str, float] = {}
    for server in servers:
        weight = weights.get(next(iter(server.split_points)))
        if weight is None:
            continue  # the copy of a client that was lost
        for name, value in server.half.state().items():
            totals[name] = totals.get(name, torch.zeros(())) + weight * value.to(torch.float64)
            held[name] = held.get(name, 0.0) + weight
    return {name: (total / held[name]).to(torch.float32) for name, total in totals.items()}
