"""The meter of a validating server: rates before each round, time stamps of everything in it.

One line a round goes to `measured.jsonl`, on this machine's monotonic clock [s].
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from airtune.cost.timeline import SERVER
from airtune.deploy.hub import Open
from airtune.deploy.link import ACTIVATIONS, GRADIENT, HIDDEN, HIDDEN_GRADIENT, REPORT
from airtune.deploy.messages import ANSWER, Measuring
from airtune.deploy.meter import Meter
from airtune.deploy.wire import Frame
from airtune.federated.backends.backend import ClientTask
from airtune.federated.charging.split_costs import RoundRates, SplitRoundCosts
from airtune.federated.context import RoundContext
from airtune.round_plan import MAIN_SERVER, ClientPlan
from airtune.validation.rates import RoundLinks, round_links
from airtune.validation.wire import Links

STAGE_OF = {
    ACTIVATIONS: "activations",
    HIDDEN: "hidden",
    HIDDEN_GRADIENT: "hidden_gradient",
    GRADIENT: "gradient",
    REPORT: "adapter",
}
"""Stage of the timeline that a message of a split model belongs to."""


@dataclass(frozen=True)
class Message:
    """One transfer: payload and bytes on the wire (head included), begun and whole [s]."""

    client: int
    stage: str
    step: int
    payload: int
    size: int
    sent_s: float
    arrived_s: float


@dataclass
class _Round:
    """A round in progress. `modelled`: seconds of each client's parts [step][part]; `served`: of
    the main server [step], before hidden states and before gradients go down."""

    number: int
    plans: list[ClientPlan]
    links: RoundLinks
    costs: SplitRoundCosts | None
    modelled: Mapping[int, list[list[float]]] = field(default_factory=dict)
    served: Mapping[tuple[str, int], float] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)
    links_s: float = 0.0
    late: int = 0
    counted: Mapping[int, Any] = field(default_factory=dict)
    broadcast: int = 0
    messages: list[Message] = field(default_factory=list)
    arrived_s: float = 0.0
    sent: set[tuple[str, int]] = field(default_factory=set)
    server_links_s: dict[int, float] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Local steps of a split model."""
        return 0 if self.costs is None else len(self.costs.messages(self.plans[0].client))


@final
class ValidatingMeter(Meter):
    """Sets each link to what the round is charged with, and writes what the round took.

    With `emulates`, clients and the main server wait until the modelled time of their computing.
    """

    def __init__(self, links: Links, path: Path, *, emulates: bool) -> None:
        self._links, self._path, self._emulates = links, path, emulates
        self._context: RoundContext | None = None
        self._now: _Round | None = None

    def opened(self, context: RoundContext) -> None:
        self._context = context

    def before(self, tasks: Sequence[ClientTask]) -> None:
        assert self._context is not None
        context, index = self._context, tasks[0].round_index
        began = time.monotonic()
        clients = [task for task in tasks if task.client != MAIN_SERVER]
        plans = [task.plan for task in clients]
        costs = context.costs.in_round(index)
        now = _Round(index + 1, plans, round_links(context, plans, index), costs.split)
        now.broadcast = len(clients[0].broadcast)
        if self._emulates and costs.split is not None:
            now.modelled, now.served = split_model(costs.split, plans)
        elif self._emulates:
            now.modelled = {plan.client: [[costs.compute_s(plan)]] for plan in plans}
        now.counted = self._links.set(now.links.start, [plan.client for plan in plans])
        now.links_s = time.monotonic() - began
        self._now = now

    def measuring(self, task: ClientTask) -> Measuring:
        return Measuring(compute_s=self._round.modelled.get(task.client))

    def crossing(self, client: int, kind: str, step: int) -> None:
        """Before the first message of a kind in a step: what changes on the links, and the wait."""
        now = self._round
        if (kind, step) in now.sent:
            return
        due = now.arrived_s + now.served.get((kind, step), 0.0)
        now.sent.add((kind, step))
        began = time.monotonic()
        self._change_links(now, kind, step)
        if self._emulates:
            now.late += time.monotonic() > due
            time.sleep(max(0.0, due - time.monotonic()))
        else:
            spent = time.monotonic() - began
            now.server_links_s[step] = now.server_links_s.get(step, 0.0) + spent

    def crossed(self, client: int, step: int, frame: Frame) -> None:
        now, head = self._round, frame.head
        sent_s, arrived_s = float(head["at_s"]), float(head["arrived_s"])
        now.arrived_s = max(now.arrived_s, arrived_s)
        (payload,) = frame.parts.values()
        stage = STAGE_OF[frame.kind]
        whole = Message(client, stage, step, len(payload), frame.size, sent_s, arrived_s)
        now.messages.append(whole)
        for kind, its_step, size, there_s, here_s in head.get("arrivals", ()):
            # A client states whole sizes; the heads among them are some 100 bytes.
            down = Message(client, STAGE_OF[kind], its_step, size, size, there_s, here_s)
            now.messages.append(down)

    def after(self, answers: Mapping[int, Open]) -> None:
        began, now = time.monotonic(), self._round
        computing: dict[int, float] = {}
        for client, found in sorted(answers.items()):
            if found.sent_s is None or found.received_s is None:
                continue
            now.messages.append(
                Message(
                    client,
                    "broadcast",
                    -1,
                    now.broadcast,
                    found.frame.size,
                    found.sent_s,
                    found.received_s,
                )
            )
            if found.answer is not None and found.answer.sent_s is not None:
                computing[client] = found.answer.compute_s
                sent_s, payload = found.answer.sent_s, found.payload
                size = Frame.of(ANSWER, found.answer, payload=payload).size
                now.messages.append(
                    Message(client, "upload", -1, len(payload), size, sent_s, found.arrived_s)
                )
        counted = self._links.set({}, list(now.counted))
        self._late_answers(now, computing)
        now.links_s += time.monotonic() - began
        self._write(now, computing, counted)

    @property
    def _round(self) -> _Round:
        assert self._now is not None
        return self._now

    def _change_links(self, now: _Round, kind: str, step: int) -> None:
        """Gradients' share of the downlink from the first step on, the other uplink at the end.

        In the last step all activations have come, and no adapter is sent yet.
        """
        down, up = step == 0, step == now.steps - 1 and kind == GRADIENT
        if not (down or up):
            return
        links = now.links
        self._links.set(
            {
                plan.client: (
                    links.adapter_bps[plan.client] if up else 0.0,
                    links.gradient_bps[plan.client] if down else 0.0,
                )
                for plan in now.plans
            }
        )

    def _late_answers(self, now: _Round, computing: Mapping[int, float]) -> None:
        for client, seconds in computing.items():
            if client in now.modelled:
                now.late += seconds > 1.01 * now.modelled[client][0][0] + 0.01

    def _write(self, now: _Round, computing: Mapping[int, float], counted: Any) -> None:
        row = {
            "round": now.number,
            "links_s": now.links_s,
            "late": now.late,
            "computing_s": computing,
            "server_links_s": now.server_links_s,
            "messages": [asdict(message) for message in now.messages],
            "link_rates": {c: list(rates) for c, rates in now.links.start.items()},
            "gradient_bps": dict(now.links.gradient_bps),
            "adapter_bps": dict(now.links.adapter_bps),
            "counters": {
                client: {
                    name: getattr(counted[client], name) - getattr(before, name)
                    for name in vars(before)
                }
                for client, before in now.counted.items()
            },
        }
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def split_model(
    costs: SplitRoundCosts, plans: Sequence[ClientPlan]
) -> tuple[dict[int, list[list[float]]], dict[tuple[str, int], float]]:
    """Modelled seconds of a split round's computing: of each client its forward, head and backward
    [step][part]; of the main server before each kind of message down, (kind, step)."""
    ones = np.ones(len(plans))
    messages = [costs.messages(plan.client) for plan in plans]
    line = costs.timeline(plans, RoundRates(ones, ones, ones, 1.0), messages, [0] * len(plans), 0)
    found: dict[tuple[str, int], list[Any]] = {}
    for stage, step, seconds in zip(line.stages, line.step, line.seconds, strict=True):
        found.setdefault((stage, step), []).append(seconds)
    steps = range(len(messages[0]))
    parts = ("forward", "head", "backward")
    clients = {
        plan.client: [[float(found[part, step][0][k]) for part in parts] for step in steps]
        for k, plan in enumerate(plans)
    }
    served = {}
    for step in steps:
        ahead_s, back_s = (float(seconds[0]) for seconds in found[SERVER, step])
        if costs.keeps_labels:
            served[HIDDEN, step], served[GRADIENT, step] = ahead_s, back_s
        else:
            served[GRADIENT, step] = ahead_s + back_s
    return clients, served
