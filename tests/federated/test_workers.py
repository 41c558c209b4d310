"""Workers answer like the main process, and a dead one is an error, not a wait."""

import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch

from airtune.errors import AirtuneError, InputError
from airtune.federated.backend import ClientReport, ClientTask
from airtune.federated.stopwatch import Stopwatch
from airtune.federated.worker_host import WorkerHost
from airtune.federated.workers import Workers
from airtune.round_plan import ClientPlan


@dataclass(frozen=True)
class FakeSide:
    """Answers with its task's numbers; dies or refuses where told to."""

    dies_at: int = -1
    refuses_at: int = -1
    watch: Stopwatch = field(default_factory=Stopwatch)

    def answer(self, task: ClientTask) -> ClientReport:
        if task.client == self.dies_at:
            os._exit(9)
        if task.client == self.refuses_at:
            raise InputError("field", task.client, "something else")
        return ClientReport(task.client, bytes([task.client]), 0.5, task.round_index)

    def test_losses(self, adapter: Any, share: slice) -> list[tuple[float, int]]:
        return [(float(adapter["a"]) + batch, batch) for batch in range(5)][share]


def make_side(**settings: int) -> Any:
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
    [({"dies_at": 1}, "trained client 1 died"), ({"refuses_at": 1}, "field is 1, but it must be")],
)
def test_trouble_in_a_worker(settings: dict[str, int], sentence: str) -> None:
    workers = Workers(partial(make_side, **settings), 2, host=light())
    try:
        with pytest.raises(AirtuneError, match=sentence):
            list(workers.run(tasks(3)))
    finally:
        workers.close()


def test_test_batches_are_shared_out_and_come_back_in_order() -> None:
    workers = Workers(make_side, 2, host=light())
    try:
        assert not workers.running
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
