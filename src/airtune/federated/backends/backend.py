"""The seam to the world: one method, "run this cohort", and what comes back with the updates.

`InProcess` trains here and now, `Workers` and `RayActors` in other processes, and `Scripted`
returns what a test gives it; `experiment.engine.open_backend` chooses. With the updates come
reports for the next plan, and what clients keep for later.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Any, final

import torch
from torch import Tensor

from airtune.federated.checks.guard import (
    LESS,
    OTHER_FORMAT,
    asked,
    check_finite,
    check_losses,
    check_tensors,
    party,
)
from airtune.federated.method import Method
from airtune.federated.records.stopwatch import Stopwatch
from airtune.round_plan import MAIN_SERVER, ClientPlan
from airtune.tuning.adapter import AdapterState
from airtune.tuning.base_change import load_whole, put_changes
from airtune.tuning.evaluate import batch_losses
from airtune.tuning.kept import holds_part
from airtune.tuning.local import LocalResult, TokenBatch, TrainingSettings
from airtune.tuning.split.model import StepBits
from airtune.tuning.tuner import CohortTuner, Party, PartyResult, Tuner, TuningContext, TuningJob
from airtune.update.codec import Codec, Shapes
from airtune.update.error_feedback import add_lost, holds_residual
from airtune.update.held_model import held_model, with_held, without_held


@dataclass(frozen=True)
class ClientTask:
    """One party's work in one round; `broadcast` is the adapter as it came over the air.

    `weight` counts in averages. The main server of a split model is a party, too (`MAIN_SERVER`):
    its broadcast is its own half and never travelled. Draws are keyed by `round_index`, the
    client's own task where rounds are not synchronous; the learning rate then follows
    `schedule_index`, the server's step (None: `round_index`). `base` is what is merged into the
    base once the broadcast is read: a client keeps it, and only what it lacks is in the broadcast.
    """

    round_index: int
    client: int
    plan: ClientPlan
    broadcast: bytes
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    weight: float = 1.0
    base: Mapping[str, Tensor] = field(default_factory=dict)
    schedule_index: int | None = None


@dataclass(frozen=True)
class ClientReport:
    """What comes back: the payload as sent, what was learned on the way, what is kept for later.

    `cut` counts what a split model's client exchanged with the main server in each local step.
    `measured` are numbers for the round's record.
    """

    client: int
    payload: bytes
    train_loss: float
    label_tokens: int
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    cut: tuple[StepBits, ...] = ()
    measured: Mapping[str, float] = field(default_factory=dict)


class Backend(ABC):
    """Runs a cohort. Reports may come in any order; each task is answered at most once."""

    @abstractmethod
    def run(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        """Answer the tasks; a client without a report is silent in this round."""

    def close(self) -> None:  # noqa: B027 (most backends hold nothing)
        """Close processes and connections."""


@final
@dataclass(frozen=True)
class ClientSide:
    """Everything a client needs to answer a task: decode, tune, encode, in this order.

    `batches(client, round)` is deterministic, so that every process has the same rows of a client.
    """

    method: Method
    model: Any
    shapes: Shapes
    batches: Callable[[int, int], Sequence[TokenBatch]]
    training: TrainingSettings
    seed: int
    test_batches: Callable[[], Iterable[TokenBatch]] = tuple
    watch: Stopwatch = field(default_factory=Stopwatch)

    def answer(self, task: ClientTask) -> ClientReport:
        """Do the client's part of the round."""
        assert isinstance(self.method.tuner, Tuner), "this cohort trains together"
        start = self._start(task)
        with self.watch.stage("tune"), self._asked("tuner", self.method.tuner, task):
            result = self.method.tuner.tune(start, task.plan, self._context(task))
        return self._report(task, start, result)

    def job(self, task: ClientTask) -> TuningJob:
        """What the tuner is given for a task."""
        return TuningJob(self._start(task), task.plan, self._context(task))

    def answer_stacked(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        """The same up to rounding, with clients that can be stacked trained as one stack."""
        tuner = self.method.tuner
        assert isinstance(tuner, Tuner), "this cohort trains together"
        stacks: dict[Hashable, list[tuple[ClientTask, TuningJob]]] = {}
        for task in tasks:
            job = self.job(task)
            with self._asked("tuner", tuner, task):
                key = tuner.stackable(job.plan, job.context)
            if key is None:
                with self.watch.stage("tune"), self._asked("tuner", tuner, task):
                    result = tuner.tune(job.start, job.plan, job.context)
                yield self._report(task, job.start, result)
            else:
                stacks.setdefault((key, len(job.context.batches)), []).append((task, job))
        for members in stacks.values():
            first, _ = members[0]
            with self.watch.stage("tune"), asked("tuner", tuner, first.round_index):
                results = tuner.tune_stack([job for _, job in members])
            for (task, job), result in zip(members, results, strict=True):
                yield self._report(task, job.start, result)

    def answer_together(
        self, tasks: Sequence[ClientTask], links: Mapping[int, Any] | None = None
    ) -> list[ClientReport]:
        """The part of all clients in a round in which the cohort trains together.

        `links` lead to clients of other processes (`split.client.ClientLink`), which have their
        own rows and encode their own change.
        """
        assert isinstance(self.method.tuner, CohortTuner), "these clients train one by one"
        parties = [self.party(task, (links or {}).get(task.client)) for task in tasks]
        tuner = self.method.tuner
        with self.watch.stage("tune"), asked("tuner", tuner, tasks[0].round_index):
            results = tuner.tune_together(parties)
        return [
            self._party_report(task, party.start, result)
            for task, party, result in zip(tasks, parties, results, strict=True)
            if result is not None
        ]

    def party(self, task: ClientTask, link: Any = None) -> Party:
        """One party of a cohort that trains together."""
        start, context = self._start(task), self._context(task, rows=link is None)
        return Party(start, task.plan, context, task.weight, link)

    def _party_report(
        self, task: ClientTask, start: AdapterState, party: PartyResult
    ) -> ClientReport:
        if party.payload is None:
            return replace(self._report(task, start, party.result), cut=party.cut)
        result = party.result
        check_losses(result.losses, task.client, task.round_index)
        return ClientReport(
            task.client,
            party.payload,
            result.mean_loss,
            result.label_tokens,
            result.carried,
            party.cut,
        )

    def encoded(self, task: ClientTask, start: AdapterState, result: LocalResult) -> ClientReport:
        """The report of a client that has trained from `start`, with its change encoded."""
        return self._report(task, start, result)

    def test_losses(self, adapter: Mapping[str, Tensor], share: slice) -> list[tuple[float, int]]:
        """Summed loss [nat] and label tokens of some of the test batches, in their order."""
        load_whole(self.model, adapter)
        return batch_losses(self.model, islice(self.test_batches(), share.start, None, share.step))

    def _start(self, task: ClientTask) -> AdapterState:
        downlink = self.method.downlink
        with self.watch.stage("encode"):
            with self._asked("downlink codec", downlink, task):
                if downlink.keeps_model:
                    held = held_model(task.carried)
                    start = downlink.received(task.broadcast, *held, self.shapes)
                else:
                    start = downlink.decode(task.broadcast, self.shapes, task.plan)
            what = f"the adapter that {party(task.client)} received"
            check_finite(start, what, task.round_index, OTHER_FORMAT)
            put_changes(self.model, task.base)
        return start

    def _asked(self, kind: str, part: object, task: ClientTask) -> AbstractContextManager[None]:
        return asked(kind, part, task.round_index, task.client)

    def _context(self, task: ClientTask, *, rows: bool = True) -> TuningContext:
        has_rows = rows and task.client != MAIN_SERVER
        step = task.round_index if task.schedule_index is None else task.schedule_index
        own = without_held(task.carried) if self.method.downlink.keeps_model else task.carried
        return TuningContext(
            model=self.model,
            batches=self.batches(task.client, task.round_index) if has_rows else [],
            training=self.training.in_round(step),
            seed=self.seed,
            round_index=task.round_index,
            carried=own,
        )

    def _report(self, task: ClientTask, start: AdapterState, result: LocalResult) -> ClientReport:
        who, codec = party(task.client), self.method.codec
        with self._asked("tuner", self.method.tuner, task):
            check_tensors(result.state, start)
        check_losses(result.losses, task.client, task.round_index)
        with self.watch.stage("encode"):
            base = start if result.base is None else result.base
            change = {name: result.state[name] - value for name, value in base.items()}
            check_finite(change, f"the update of {who}", task.round_index, LESS)
            check_finite(result.carried, f"what {who} keeps", task.round_index, LESS)
            sent = result.coefficients if codec.takes_coefficients else change
            with self._asked("codec", codec, task):
                payload = codec.in_round(start).encode(sent, task.plan)
        carried: Mapping[str, Tensor] = result.carried
        if self.method.downlink.keeps_model:
            carried = with_held(carried, start, task.round_index)
        return ClientReport(
            task.client,
            payload,
            result.mean_loss,
            result.label_tokens,
            carried,
            measured=result.measured,
        )


@final
@dataclass(frozen=True)
class InProcess(Backend):
    """On one shared model: one client after another, or stacks of at most `together` clients.

    A `CohortTuner` gets the whole cohort at once.
    """

    side: ClientSide
    together: int = 1

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        if isinstance(self.side.method.tuner, CohortTuner):
            yield from self.side.answer_together(tasks)
        elif self.together == 1:
            yield from map(self.side.answer, tasks)
        else:
            for part in deal(tasks, 1, self.together):
                yield from self.side.answer_stacked(part)


def deal(tasks: Sequence[ClientTask], count: int, largest: int) -> list[Sequence[ClientTask]]:
    """Parts of at most `largest` neighbours, as many as a multiple of `count` where tasks suffice.

    A function of its arguments alone, so that a resumed run stacks the same clients.
    """
    if not tasks:
        return []
    turns = -(-len(tasks) // (count * largest))
    ends = [len(tasks) * part // (turns * count) for part in range(turns * count + 1)]
    parts = [tasks[start:end] for start, end in pairwise(ends)]
    return [part for part in parts if part]


@final
@dataclass(frozen=True)
class Scripted(Backend):
    """A test double that ships: answers by a function and records the tasks."""

    script: Callable[[ClientTask], ClientReport]
    asked: list[ClientTask] = field(default_factory=list)

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        for task in tasks:
            self.asked.append(task)
            yield self.script(task)


KEPT_AT_CLIENT = "kept at the client"
"""The name of a mark in place of what a client on another machine carries over: [round index of
its last answer, 1 where that answer came too late]."""


def kept_mark(round_index: int, *, late: bool = False) -> dict[str, Tensor]:
    """The mark of what a client on another machine keeps after a round."""
    return {KEPT_AT_CLIENT: torch.tensor([round_index, int(late)])}


def reported(
    codec: Codec, tasks: Sequence[ClientTask], reports: Mapping[int, ClientReport], shapes: Shapes
) -> dict[int, list[float]]:
    """What these clients reported beside their updates; the codec is bound to the round."""
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
        if task.client not in reports:
            continue
        report = reports[task.client]
        carried = report.carried
        if task.client not in in_time and KEPT_AT_CLIENT in carried:
            carried = kept_mark(task.round_index, late=True)
        elif task.client not in in_time and holds_part(carried):
            carried = task.carried  # what was trained too late does not count at the client, either
        elif task.client not in in_time and holds_residual(carried):
            with asked("codec", codec, task.round_index, task.client):
                carried = add_lost(carried, codec.decode(report.payload, shapes, task.plan))
        if carried:
            kept[task.client] = carried
    return kept
