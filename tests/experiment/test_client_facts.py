"""The server plans and charges a round from what clients report of their data, without a row."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pytest

from airtune.experiment.clients import compose_clients
from airtune.experiment.engine import EngineChoice
from airtune.experiment.loading import load_model, load_server, prepared
from airtune.experiment.reading import read_config
from airtune.experiment.shards import deal_devices, load_rows
from airtune.experiment.world import cost_model, server_side
from airtune.federated.backends.backend import Backend, ClientReport, InProcess
from airtune.federated.checks.feasibility import refuse_small_devices
from airtune.federated.context import RoundContext
from airtune.federated.facts import ClientFacts
from airtune.federated.observation import planning_view
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.records.record import RoundRecord
from airtune.federated.round import run_round, start_round
from airtune.update.cut import CutShape
from airtune.workload.step import Step
from tests.cli.conftest import quick

CLIENTS, ROUNDS = 3, 2


@dataclass(frozen=True)
class Reported:
    """Facts as numbers that clients sent, one JSON text each."""

    told: Sequence[str]

    def _of(self, client: int) -> Any:
        return json.loads(self.told[client])

    def rows(self, client: int) -> int:
        return int(self._of(client)["rows"])

    def longest_step(self, client: int) -> Step:
        return Step(**self._of(client)["longest"])

    def step_shapes(self, client: int, round_index: int) -> list[Step]:
        return [Step(**step) for step in self._of(client)["steps"][round_index]]

    def cut_shapes(self, client: int, round_index: int) -> list[CutShape]:
        return [CutShape(**cut) for cut in self._of(client)["cuts"][round_index]]


def report(facts: ClientFacts, client: int) -> str:
    """What a client tells before round 1."""
    rounds = range(ROUNDS)
    return json.dumps(
        {
            "rows": facts.rows(client),
            "longest": asdict(facts.longest_step(client)),
            "steps": [[asdict(s) for s in facts.step_shapes(client, r)] for r in rounds],
            "cuts": [[asdict(c) for c in facts.cut_shapes(client, r)] for r in rounds],
        }
    )


def no_rows(client: int, round_index: int) -> Any:
    raise AssertionError("the server has no rows of clients")


@pytest.mark.parametrize("method", ["jcpba", "sflllm"])
def test_reported_numbers_plan_and_charge_the_same_rounds(method: str) -> None:
    uneven = (
        "data.partition.kind=size",
        f"clients.count={CLIENTS}",
        "training.local_steps=2",
        f"method={method}",
    )
    config = prepared(read_config(None, quick(*uneven)[1::2]))
    server, loaded = load_server(config), load_model(config)
    base, limit = loaded.base, loaded.architecture.max_tokens
    tests, shards = load_rows(loaded.config, base.tokenizer, limit, base.embeddings)
    devices = deal_devices(config)
    clients = compose_clients(loaded.config, base, devices, shards.batches, tests.batches)
    untrained = clients.method.start(clients.model, config.seed)
    answers: list[list[ClientReport]] = []

    def server_of(facts: ClientFacts, backend: Backend) -> tuple[RoundContext, ServerState]:
        side = replace(clients, batches=no_rows)
        costs = cost_model(server, loaded, side, facts)
        context = server_side(server, loaded, side, costs, EngineChoice("sequential"))
        refuse_small_devices(context.method, costs.in_round(0), context.rank)
        context = replace(context, backend=backend)
        planner = context.method.planner.settled(partial(planning_view, context)).planner
        context = replace(context, method=replace(context.method, planner=planner))
        return context, ServerState(untrained, planner=planner.initial_state())

    def records(facts: ClientFacts, backend: Backend) -> list[RoundRecord]:
        context, state = server_of(facts, backend)
        made = []
        for _ in range(ROUNDS):
            outcome = run_round(context, state)
            state = outcome.state
            made.append(outcome.record)
        return made

    class Remembered(Backend):
        """Trains from the rows, and keeps the answers."""

        def run(self, tasks: Any) -> Any:
            answers.append(list(InProcess(clients).run(tasks)))
            return iter(answers[-1])

    class Repeated(Backend):
        """The same answers, round after round."""

        def run(self, tasks: Any) -> Any:
            return iter(answers[tasks[0].round_index])

    local = records(shards, Remembered())
    told = [report(shards, client) for client in range(CLIENTS)]
    assert records(Reported(told), Repeated()) == local
    assert len({shards.rows(client) for client in range(CLIENTS)}) > 1
    assert all(record.clients for record in local)
    # A client that reports fewer steps is planned for fewer.
    fewer = [json.loads(text) for text in told]
    for one in fewer:
        one |= {name: [steps[:1] for steps in one[name]] for name in ("steps", "cuts")}
    start = start_round(*server_of(Reported([json.dumps(one) for one in fewer]), Repeated()))
    assert start.plan.predicted_latency_s < local[0].planned_latency_s
