"""Workers answer like the main process, and a dead one is an error, not a wait."""

import os
import signal
import time
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from airtune.errors import AirtuneError, InputError
from airtune.federated.backends.backend import ClientReport, ClientTask
from airtune.federated.backends.worker_host import WorkerHost
from airtune.federated.backends.workers import Workers, _Worker, processor_seconds
from airtune.federated.records.stopwatch import Stopwatch
from airtune.round_plan import ClientPlan


@dataclass(frozen=True)
class FakeSide:
    """Answers with its task's numbers; dies, refuses or hangs where told to.

    With `once`, a path, only until that file exists.
    """

    dies_at: int = -1
    refuses_at: int = -1
    raises_at: int = -1
    stops_at: int = -1
    once: str = ""
    watch: Stopwatch = field(default_factory=Stopwatch)

    def answer(self, task: ClientTask) -> ClientReport:
        if self.once and Path(self.once).exists():
            return self._told(task)
        if self.once and task.client in (self.dies_at, self.stops_at):
            Path(self.once).touch()
        if task.client == self.dies_at:
            os._exit(9)
        if task.client == self.stops_at:
            os.kill(os.getpid(), signal.SIGSTOP)
        if task.client == self.raises_at:
            raise KeyError("no such thing")
        if task.client == self.refuses_at:
            raise InputError("field", task.client, "something else")
        return self._told(task)

    @staticmethod
    def _told(task: ClientTask) -> ClientReport:
        return ClientReport(task.client, bytes([task.client]), 0.5, os.getpid())

    def test_losses(self, adapter: Any, share: slice) -> list[tuple[float, int]]:
        return [(float(adapter["a"]) + batch, batch) for batch in range(5)][share]


def make_side(**settings: Any) -> Any:
    return FakeSide(**settings)


def light() -> WorkerHost:
    """What these sides need, and no model library."""
    return WorkerHost(("torch",))


def tasks(count: int) -> list[ClientTask]:
    return [ClientTask(3, c, ClientPlan(c, 1.0, 1.0, 1), b"x") for c in range(count)]


def test_every_task_is_answered_once_over_rounds() -> None:
    workers = Workers(make_side, 2, host=light())
    try:
        for count in (5, 1, 2):
            reports = sorted(workers.run(tasks(count)), key=lambda report: report.client)
            assert [report.client for report in reports] == list(range(count))
            assert all(report.payload == bytes([report.client]) for report in reports)
    finally:
        workers.close()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"dies_at": 1}, "3 worker processes in a row died or hung while they trained client 1"),
        ({"refuses_at": 1}, "field is 1, but it must be"),
        ({"raises_at": 1}, "A worker process failed: KeyError: 'no such thing'"),
    ],
)
def test_trouble_in_a_worker(settings: dict[str, Any], sentence: str) -> None:
    workers = Workers(partial(make_side, **settings), 2, host=light())
    try:
        with pytest.raises(AirtuneError, match=sentence):
            list(workers.run(tasks(3)))
    finally:
        workers.close()


@pytest.mark.parametrize("what", ["dies_at", "stops_at"])
def test_a_lost_worker_is_replaced_and_its_client_runs_again(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airtune.federated.backends.workers.HANGS_AFTER_S", 0.5)
    monkeypatch.setattr("airtune.federated.backends.workers.LOOKS_EVERY_S", 0.2)
    once = str(tmp_path / "once")
    workers = Workers(partial(make_side, once=once, **{what: 1}), 2, host=light())
    try:
        reports = sorted(workers.run(tasks(4)), key=lambda report: report.client)
        assert Path(once).exists()
        assert [report.payload for report in reports] == [bytes([client]) for client in range(4)]
        assert len(list(workers.run(tasks(3)))) == 3
    finally:
        workers.close()


def test_workers_that_die_between_rounds_are_replaced() -> None:
    workers = Workers(make_side, 2, host=light())
    try:
        # A report's token count is the number of the process here.
        for pid in {report.label_tokens for report in workers.run(tasks(8))}:
            os.kill(pid, signal.SIGKILL)
        assert len(workers.test_losses({"a": torch.tensor(0.0)})) == 5
        for pid in {report.label_tokens for report in workers.run(tasks(8))}:
            os.kill(pid, signal.SIGKILL)
        assert sorted(report.client for report in workers.run(tasks(3))) == [0, 1, 2]
    finally:
        workers.close()


def test_a_worker_that_is_stopped_between_rounds_does_not_hold_up_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its message is longer than what a pipe takes before anybody reads."""
    monkeypatch.setattr("airtune.federated.backends.workers.HANGS_AFTER_S", 0.5)
    monkeypatch.setattr("airtune.federated.backends.workers.LOOKS_EVERY_S", 0.2)
    workers = Workers(make_side, 1, host=light())
    try:
        (report,) = workers.run(tasks(1))
        os.kill(report.label_tokens, signal.SIGSTOP)
        long = [replace(task, broadcast=bytes(4_000_000)) for task in tasks(1)]
        assert [again.client for again in workers.run(long)] == [0]
    finally:
        workers.close()


def test_answers_of_a_round_that_was_given_up_are_not_taken_for_the_next_ones() -> None:
    workers = Workers(make_side, 2, host=light())
    try:
        given_up = workers.run(tasks(4))
        next(given_up)
        del given_up
        assert not workers.running
        assert sorted(report.client for report in workers.run(tasks(3))) == [0, 1, 2]
        assert len(workers.test_losses({"a": torch.tensor(0.0)})) == 5
    finally:
        workers.close()


def test_a_connection_is_closed_after_what_is_being_sent() -> None:
    """Else the rest is sent to the connection that gets the same descriptor next."""
    done: list[str] = []

    class Slow:
        def send_bytes(self, content: memoryview) -> None:
            time.sleep(0.2)
            done.append("sent")

        def close(self) -> None:
            done.append("closed")

    worker = _Worker(cast(Connection, Slow()))
    worker.give("a message")
    worker.leave()
    assert done == ["sent", "closed"]


@pytest.mark.slow
def test_a_host_that_died_is_replaced() -> None:
    host = light()
    workers = Workers(make_side, 1, host=host)
    try:
        (report,) = workers.run(tasks(1))
        host.close()
        assert [again.client for again in workers.run(tasks(1))] == [0]
        with pytest.raises(ProcessLookupError):
            os.kill(report.label_tokens, 0)
    finally:
        workers.close()


def test_processor_time_is_read() -> None:
    spent = processor_seconds(os.getpid())
    assert spent is None or spent > 0
    assert processor_seconds(2**30) is None


def test_test_batches_are_shared_out_and_come_back_in_order() -> None:
    workers = Workers(make_side, 2, host=light())
    try:
        running_before = workers.running
        assert not running_before
        list(workers.run(tasks(1)))
        assert workers.running
        losses = workers.test_losses({"a": torch.tensor(10.0)})
        assert losses == [(10.0 + batch, batch) for batch in range(5)]
    finally:
        workers.close()


def test_what_is_carried_travels() -> None:
    workers = Workers(make_side, 1, host=light())
    try:
        task = ClientTask(0, 0, ClientPlan(0, 1.0, 1.0, 1), b"", {"m": torch.ones(3)})
        assert next(iter(workers.run([task]))).client == 0
    finally:
        workers.close()
