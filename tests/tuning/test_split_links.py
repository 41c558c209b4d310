"""Clients of a split round behind a link: the same numbers, and rounds without lost ones.

A link that gives a client up at a chosen message stands for a machine that is gone.
"""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from airtune.errors import ClientLostError
from airtune.tuning.local import TrainingSettings
from airtune.tuning.split.client import ClientHalf, ClientResult, SplitClient
from airtune.tuning.split.model import SplitModel
from tests.tuning.test_split import EXACT, adapted, batch_of, run, start_of

SGD = TrainingSettings("sgd", learning_rate=0.1, max_grad_norm=0.0)
STEPS = 3
PLACES = ("shared", "copies")
CASES = list(product(PLACES, ("server", "client")))


class Breaking:
    """A half of this process; the message `gives_up_at` (from 0) is never answered."""

    def __init__(self, half: ClientHalf, gives_up_at: int | None) -> None:
        self.half, self.left = half, gives_up_at

    @property
    def steps(self) -> int:
        return STEPS

    def _count(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise ClientLostError("gone")

    def activations(self, step: int) -> bytes:
        self._count()
        return self.half.activations(step)

    def send_hidden(self, payload: bytes) -> None:
        self.half.send_hidden(payload)

    def hidden_gradient(self) -> tuple[bytes, float]:
        self._count()
        return self.half.hidden_gradient()

    def send_gradient(self, payload: bytes) -> None:
        self.half.send_gradient(payload)

    def finish(self) -> ClientResult:
        self._count()
        return self.half.finish()


def cohort() -> list[SplitClient]:
    return [
        SplitClient(4, 1, [batch_of(seed) for seed in range(STEPS)], weight=1.0),
        SplitClient(7, 2, [batch_of(10 + seed, rows=2) for seed in range(STEPS)], weight=2.0),
        SplitClient(9, 1, [batch_of(20 + seed) for seed in range(STEPS)], weight=3.0),
    ]


def linked(
    model: Any, start: Any, clients: list[SplitClient], gives_up: dict[int, int], labels: str
) -> list[SplitClient]:
    halves = [
        ClientHalf(
            SplitModel(model),
            start,
            client,
            SGD,
            EXACT,
            keeps_labels=labels == "client",
            seed=7,
            round_index=2,
        )
        for client in clients
    ]
    return [
        replace(client, batches=[], link=Breaking(half, gives_up.get(client.client)))
        for client, half in zip(clients, halves, strict=True)
    ]


@pytest.mark.parametrize(("place", "labels"), CASES)
def test_a_link_changes_nothing(place: str, labels: str) -> None:
    model = adapted("llama")
    start = start_of(model)
    here = run(model, start, cohort(), SGD, server_side=place, labels_at=labels)
    away = run(
        model,
        start,
        linked(model, start, cohort(), {}, labels),
        SGD,
        server_side=place,
        labels_at=labels,
    )
    for one, other in zip(here.reports, away.reports, strict=True):
        assert (one.client, one.losses, one.cut) == (other.client, other.losses, other.cut)
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
    assert all(torch.equal(here.server[name], away.server[name]) for name in here.server)


@pytest.mark.parametrize(("place", "labels"), CASES)
def test_a_client_that_never_speaks_is_as_if_it_were_not_there(place: str, labels: str) -> None:
    model = adapted("llama")
    start = start_of(model)
    clients = cohort()
    without = run(model, start, [clients[0], clients[2]], SGD, server_side=place, labels_at=labels)
    lost = run(
        model,
        start,
        linked(model, start, clients, {7: 0}, labels),
        SGD,
        server_side=place,
        labels_at=labels,
    )
    assert [report.client for report in lost.reports] == [4, 9]
    for one, other in zip(without.reports, lost.reports, strict=True):
        for name in one.state:
            torch.testing.assert_close(one.state[name], other.state[name])
    for name, value in without.server.items():
        torch.testing.assert_close(lost.server[name], value)


@pytest.mark.parametrize(("place", "labels"), CASES)
@pytest.mark.parametrize("message", range(1, 2 * STEPS + 1))
def test_a_client_lost_at_any_message_has_no_report(place: str, labels: str, message: int) -> None:
    model = adapted("llama")
    start = start_of(model)
    messages = STEPS * (2 if labels == "client" else 1) + 1
    if message >= messages:
        pytest.skip("there are fewer messages with labels at the server")
    clients = linked(model, start, cohort(), {9: message}, labels)
    result = run(model, start, clients, SGD, server_side=place, labels_at=labels)
    assert [report.client for report in result.reports] == [4, 7]
    assert all(len(report.losses) == STEPS for report in result.reports)
    states = [result.server, *(report.state for report in result.reports)]
    assert all(bool(value.isfinite().all()) for state in states for value in state.values())


def test_the_client_with_the_earliest_cut_may_be_lost() -> None:
    """Nobody then trains the blocks behind its cut any more; the others go on."""
    model = adapted("llama")
    start, clients = start_of(model), cohort()[:2]
    result = run(model, start, linked(model, start, clients, {4: 1}, "server"), SGD)
    assert [report.client for report in result.reports] == [7]
    assert all(bool(value.isfinite().all()) for value in result.server.values())


@pytest.mark.parametrize("place", PLACES)
def test_a_round_without_clients_is_refused(place: str) -> None:
    model = adapted("llama")
    start = start_of(model)
    clients = linked(model, start, cohort(), {4: 0, 7: 1, 9: 2}, "server")
    with pytest.raises(ClientLostError):
        run(model, start, clients, SGD, server_side=place)


def test_a_damaged_message_loses_its_client_alone() -> None:
    class Damaged(Breaking):
        def activations(self, step: int) -> bytes:
            return self.half.activations(step)[:-3] if step == 1 else self.half.activations(step)

    model = adapted("llama")
    start = start_of(model)
    clients = linked(model, start, cohort(), {}, "server")
    assert isinstance(clients[1].link, Breaking)
    clients[1] = replace(clients[1], link=Damaged(clients[1].link.half, None))
    result = run(model, start, clients, SGD)
    assert [report.client for report in result.reports] == [4, 9]
