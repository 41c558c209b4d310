"""One round of split training: the cohort's client halves and the main server's half together.

In the manner of SflLLM (Zhao et al., arXiv 2504.14667) on SplitFed (Thapa et al., arXiv
2004.12088, algorithms 1 and 2): in every local step each client sends activations up, the main
server runs the rest and sends the gradient down, and both sides take a step. Afterwards the
federated server averages the client halves (`airtune.update.means`). Nothing here depends on a
radio or a clock; what crosses the cut is encoded, and its bits are counted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from airtune.errors import ClientLostError, InputError
from airtune.round_plan import MAIN_SERVER, Decision
from airtune.tuning.adapter import AdapterState
from airtune.tuning.local import LocalResult, TrainingSettings
from airtune.tuning.pruning.fixed import FixedSlices
from airtune.tuning.pruning.slice import gather, scatter
from airtune.tuning.split.aggregation import JointStep, joint_step
from airtune.tuning.split.client import ClientHalf, ServedClient, SplitClient, SplitReport
from airtune.tuning.split.halves import ServerHalf
from airtune.tuning.split.kept import kept_half, own_half, received_half, sent_half
from airtune.tuning.split.model import CutLink, SplitModel
from airtune.tuning.tuner import CohortTuner, Party, PartyResult

SERVER_SIDES = ("shared", "copies")
LABEL_HOLDERS = ("server", "client")


@dataclass(frozen=True)
class SplitSettings:
    """`shared` is SplitFed v2, one server side that steps once on all clients' batches; `copies`
    is v1, one server side per client, averaged at the end of the round. With labels at the
    `client` (U-shaped), LM head and loss are there, too. `keeps_halves`: client halves are not
    averaged in every round; a client then goes on with its own until it is sent the mean again.
    A share `aggregation_ratio` of the rows has gradients that are aggregated over clients
    (`aggregation.py`); with `compares` the first step of a round is held against the exact one."""

    server_side: str = "shared"
    labels_at: str = "server"
    keeps_halves: bool = False
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
    with torch.random.fork_rng(devices=[]), model.dropout():
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


@final
@dataclass(frozen=True)
class SplitTuner(CohortTuner):
    """`split_round` for the parties of a round; the main server is one of them.

    `trained_point` turns a plan's split point into one of the model that is trained.
    """

    honours = frozenset(
        {Decision.SPLIT, Decision.PRUNING, Decision.CUT_DROPOUT, Decision.CUT_FORMAT}
    )
    requires = frozenset({Decision.SPLIT})
    on_factors = True
    model: Any
    cut: CutLink
    settings: SplitSettings
    trained_point: Callable[[int], int]
    slices: FixedSlices | None = None

    def __post_init__(self) -> None:
        if self.slices is None:
            object.__setattr__(self, "honours", self.honours - {Decision.PRUNING})

    @property
    def keeps_halves(self) -> bool:
        return self.settings.keeps_halves

    def tune_together(self, parties: Sequence[Party]) -> list[PartyResult | None]:
        clients = [party for party in parties if party.plan.client != MAIN_SERVER]
        (server,) = (party for party in parties if party.plan.client == MAIN_SERVER)
        context = server.context
        begins = [self._begin(party) for party in clients]
        smaller = self._smaller({party.plan.pruning_rate for party in clients})
        result = split_round(
            SplitModel(self.model),
            server.start,
            [
                self._client(party, begin, smaller.get(party.plan.pruning_rate))
                for party, begin in zip(clients, begins, strict=True)
            ],
            context.training,
            self.cut,
            self.settings,
            seed=context.seed,
            round_index=context.round_index,
            server_carried=context.carried,
        )
        party_of = {party.plan.client: party for party in clients}
        begin_of = {p.plan.client: begin for p, begin in zip(clients, begins, strict=True)}
        tuned: dict[int, PartyResult] = {
            report.client: PartyResult(
                self._result(party_of[report.client], report, begin_of[report.client]),
                report.cut,
                report.result.payload,
            )
            for report in result.reports
        }
        losses = tuple(report.mean_loss for report in result.reports)
        tokens = sum(report.label_tokens for report in result.reports)
        # Where the client with the earliest cut fell silent, no party trained the blocks behind it.
        state = {**server.start, **result.server}
        tuned[MAIN_SERVER] = PartyResult(
            LocalResult(
                state, losses, tokens, dict(result.server_carried), measured=result.measured
            )
        )
        return [tuned.get(party.plan.client) for party in parties]

    def _begin(self, party: Party) -> AdapterState:
        """Where a client's half begins: what came down, or its own where nothing did."""
        own = {} if party.plan.gets_half else own_half(party.context.carried)
        return {name: own.get(name, value) for name, value in party.start.items()}

    def _smaller(self, rates: Iterable[float]) -> dict[float, SplitModel]:
        """The models of clients whose blocks are pruned, by their rates."""
        if self.slices is None:
            return {}
        return {rate: SplitModel(self.slices.sliced(rate)) for rate in rates if rate}

    def _result(self, party: Party, report: SplitReport, begin: AdapterState) -> LocalResult:
        """The client's half after the round, in whole shapes; what it keeps of it, and what its
        change is from."""
        state, rate = report.state, party.plan.pruning_rate
        if rate and self.slices is not None:
            state = scatter(begin, self.slices.cuts(rate), state)
        result = LocalResult(state, report.losses, report.label_tokens, dict(report.carried))
        if not self.settings.keeps_halves:
            return result
        received = party.start if party.plan.gets_half else received_half(party.context.carried)
        kept = (
            sent_half(party.context.round_index)
            if party.plan.sends_half
            else kept_half(state, received)
        )
        base = {name: received.get(name, value) for name, value in party.start.items()}
        return replace(result, carried={**result.carried, **kept}, base=base)

    @contextmanager
    def client_half(self, party: Party) -> Iterator[ClientHalf]:
        context, model = party.context, SplitModel(self.model)
        half = ClientHalf(
            model,
            party.start,
            self._client(party, party.start),
            context.training,
            self.cut,
            keeps_labels=self.settings.labels_at == "client",
            seed=context.seed,
            round_index=context.round_index,
        )
        with torch.random.fork_rng(devices=[]), model.dropout():
            yield half

    def _client(
        self, party: Party, begin: AdapterState, smaller: SplitModel | None = None
    ) -> SplitClient:
        if smaller is not None and self.slices is not None:
            begin = gather(begin, self.slices.cuts(party.plan.pruning_rate))
        point = party.plan.split_point
        assert point is not None, "every client of a split round has a split point"
        return SplitClient(
            party.plan.client,
            self.trained_point(point),
            party.context.batches,
            party.weight,
            party.context.carried,
            begin,
            party.link,
            party.plan.cut_dropout,
            party.plan.cut_format,
            smaller,
        )
