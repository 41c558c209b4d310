"""A cohort on other machines: tasks go out to those that are connected, answers are waited for.

The same `ClientTask` in and `ClientReport` out as for every backend. Who is missing is decided on
the real clock: a client that is not connected for `deploy.patience_s`, or has not answered for
`deploy.round_s`, is silent in this round. With fewer answers than `deploy.quorum` the server waits,
and stops with a message after `deploy.wait_s`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from airtune.config.experiment import DeploySection
from airtune.deploy.hub import Hub, Open
from airtune.deploy.link import RemoteHalf
from airtune.deploy.measured import HEADROOM, MeasuredCell
from airtune.deploy.messages import TASK, Task, plan_to_head
from airtune.deploy.wire import Frame
from airtune.errors import AirtuneError, ClientLostError, DivergedError
from airtune.federated.backends.backend import (
    KEPT_AT_CLIENT,
    Backend,
    ClientReport,
    ClientSide,
    ClientTask,
    kept_mark,
)
from airtune.federated.checks.guard import check_tensors
from airtune.round_plan import MAIN_SERVER
from airtune.tuning.tuner import CohortTuner
from airtune.update.codec import Codec

LOOKS_EVERY_S = 0.5


@final
@dataclass
class RemoteClients(Backend):
    """Clients that have joined a hub. `attempt` counts the starts of this server; `cell` has
    measured rates, `rate_bps` those that clients keep to (None: neither is wanted). Measured
    seconds of clients go to the side's stopwatch."""

    hub: Hub
    side: ClientSide
    settings: DeploySection
    attempt: int
    cell: MeasuredCell | None = None
    rate_bps: Callable[[ClientTask], float] | None = None

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        together = isinstance(self.side.method.tuner, CohortTuner)
        clients = [task for task in tasks if task.client != MAIN_SERVER]
        self.hub.meter.before(tasks)
        self.hub.post({task.client: self._posted(task, together) for task in clients})
        began = time.monotonic()
        reports = self._together(tasks) if together else self._apart(tasks)
        self.side.watch.clients = timings = self._timings(began)
        if self.cell is not None:
            self._measure(tasks, timings)
        self.hub.meter.after(self.hub.open)
        yield from reports

    def _posted(self, task: ClientTask, together: bool) -> tuple[Task, Frame]:
        mark = task.carried.get(KEPT_AT_CLIENT)
        head = Task(
            run=self.hub.run,
            round_index=task.round_index,
            attempt=self.attempt,
            client=task.client,
            plan=plan_to_head(task.plan),
            is_split=together,
            carry_from=None if mark is None else int(mark[0]),
            came_late=mark is not None and bool(mark[1]),
            pace_bps=self._pace_bps(task),
            measuring=self.hub.meter.measuring(task),
        )
        return head, Frame.of(TASK, head, broadcast=task.broadcast)

    def _pace_bps(self, task: ClientTask) -> float | None:
        """The rate that a client keeps to; None: none."""
        if self.cell is not None:
            efficiency = self.cell.rows[task.round_index].uplink[task.client]
            return float(HEADROOM * efficiency * task.plan.bandwidth_hz)
        return None if self.rate_bps is None else self.rate_bps(task)

    def _measure(self, tasks: Sequence[ClientTask], timings: Sequence[Mapping[str, Any]]) -> None:
        """The goodput of this round's uploads, for the next plan."""
        assert self.cell is not None
        with self.hub.changed:
            sizes = {client: 8 * len(found.payload) for client, found in self.hub.open.items()}
        rates = {
            row["client"]: sizes[row["client"]] / row["upload_s"]
            for row in timings
            if row["upload_s"] > 0
        }
        bands = {task.client: task.plan.bandwidth_hz for task in tasks}
        self.cell.after_round(tasks[0].round_index, bands, rates)

    def _apart(self, tasks: Sequence[ClientTask]) -> list[ClientReport]:
        """Each client on its own."""
        answered = self._wait(tasks)
        decoded = self._decoder(tasks)
        reports = []
        for task in tasks:
            found = answered.get(task.client)
            wrong = self._wrong(task, found, decoded) if found is not None else ""
            if wrong:
                self.hub.say(f"Client {task.client} sent {wrong}: it is silent in this round.")
            elif found is not None:
                reports.append(self._report(task, found))
        if not reports:
            raise self._stopped(tasks[0].round_index, "no client sent a usable update")
        return reports

    def _wait(self, tasks: Sequence[ClientTask]) -> dict[int, Open]:
        """The answers, once no other client is waited for and there are enough."""
        hub, began = self.hub, time.monotonic()
        needed = min(self.settings.quorum, len(tasks))
        noted = False
        while True:
            with hub.changed:
                if hub.failed is not None:
                    raise self._stopped(tasks[0].round_index, hub.failed)
                answered, waiting = self._progress(tasks, began)
                if not waiting and len(answered) >= needed:
                    return answered
                late = time.monotonic() - began > self.settings.wait_s
                if not waiting and late:
                    break
                if not waiting and not noted:
                    noted = True
                    hub.say(
                        f"Round {tasks[0].round_index + 1} has {len(answered)} of {needed} answers "
                        "that it needs: waiting for clients."
                    )
                hub.changed.wait(LOOKS_EVERY_S)
        raise self._stopped(
            tasks[0].round_index,
            f"{len(answered)} clients answered within {self.settings.wait_s:g} s, and "
            f"deploy.quorum is {needed}",
        )

    def _progress(
        self, tasks: Sequence[ClientTask], began: float
    ) -> tuple[dict[int, Open], list[int]]:
        """Who has answered, and who is still waited for; call it under the hub's lock."""
        answered: dict[int, Open] = {}
        waiting = []
        for task in tasks:
            found = self.hub.open[task.client]
            if found.problem is not None and found.problem.diverged:
                raise DivergedError(found.problem.sentence)
            if found.answer is not None:
                answered[task.client] = found
            elif found.problem is None and not self._is_missing(found, task.client, began):
                waiting.append(task.client)
        return answered, waiting

    def _is_missing(self, found: Open, client: int, began: float) -> bool:
        now, session = time.monotonic(), self.hub.sessions[client]
        limit = self.settings.round_s
        if limit is not None and now - (found.sent_s or began) > limit:
            return True
        if self.hub.connected(client):
            return False
        return now - max(session.gone_since, began) > self.settings.patience_s

    def _stopped(self, round_index: int, why: str) -> AirtuneError:
        return AirtuneError(
            f"Round {round_index + 1} was not made: {why}. Every finished round is kept: "
            f"{self.hub.to_go_on}."
        )

    def _decoder(self, tasks: Sequence[ClientTask]) -> Callable[[ClientTask, bytes], Any]:
        """What an update decodes to, with the codec bound to the round."""
        method, shapes = self.side.method, self.side.shapes
        received = method.downlink.decode(tasks[0].broadcast, shapes, tasks[0].plan)
        codec = method.codec.in_round(received)
        return lambda task, payload: codec.decode(payload, shapes, task.plan)

    def _wrong(
        self, task: ClientTask, found: Open, decoded: Callable[[ClientTask, bytes], Any]
    ) -> str:
        """What is wrong with an update; empty where it can be used."""
        codec: Codec = self.side.method.codec
        planned = codec.payload_bits(self.side.shapes, task.plan)
        if 8 * len(found.payload) != planned:
            return f"{8 * len(found.payload)} bits where {planned} were planned"
        try:
            change: Mapping[str, Tensor] = decoded(task, found.payload)
            check_tensors(change, self.side.shapes)
        except Exception as error:  # whatever a damaged payload makes a decoder raise
            return f"an update that cannot be decoded ({' '.join(str(error).split())[:200]})"
        if not all(bool(tensor.isfinite().all()) for tensor in change.values()):
            return "an update that is not finite"
        return ""

    def _report(self, task: ClientTask, found: Open) -> ClientReport:
        answer = found.answer
        assert answer is not None
        return ClientReport(
            task.client,
            found.payload,
            answer.train_loss,
            answer.label_tokens,
            kept_mark(task.round_index) if answer.keeps else {},
        )

    def _together(self, tasks: Sequence[ClientTask]) -> list[ClientReport]:
        """A cohort whose halves train with the main server, step by step."""
        links = {
            task.client: RemoteHalf(self.hub, task, self.side.training.local_steps, self.settings)
            for task in tasks
            if task.client != MAIN_SERVER
        }
        try:
            return self.side.answer_together(tasks, links)
        except ClientLostError:
            raise self._stopped(tasks[0].round_index, "every client was lost in it") from None
        finally:
            for link in links.values():
                link.close()

    def _timings(self, began: float) -> list[dict[str, Any]]:
        """Measured seconds of each answer, on this machine's clock but for the computing."""
        rows = []
        with self.hub.changed:
            for client, found in sorted(self.hub.open.items()):
                if found.answer is None or found.sent_s is None:
                    continue
                received = found.received_s or found.sent_s
                compute_s = found.answer.compute_s
                began_s = found.answer.sent_s or received + compute_s
                rows.append(
                    {
                        "client": client,
                        "wait_s": round(found.sent_s - began, 4),
                        "download_s": round(received - found.sent_s, 4),
                        "compute_s": round(compute_s, 4),
                        "upload_s": round(found.arrived_s - began_s, 4),
                    }
                )
        return rows
