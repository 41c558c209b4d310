"""Whom a round waited for: never a rounding error's name, and what the round's time was made of."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from airtune.cli.terminal import RoundsView, print_summary
from airtune.cost.latency import StageDelays, round_latency
from airtune.experiment.closing import report_view, summarise
from airtune.experiment.reading import read_config
from airtune.experiment.world import World, build_world
from airtune.federated.backends.backend import Backend, ClientReport, ClientTask
from airtune.federated.charging.costs import RoundCosts
from airtune.federated.charging.split_costs import SplitRoundCosts
from airtune.federated.records.record import RoundRecord
from airtune.federated.round import run_round
from airtune.quantities import FloatArray
from airtune.report.page import run_panels
from airtune.report.sentences import run_sentences
from airtune.report.waiting import (
    TOGETHER,
    ending,
    ending_sentences,
    last_clients,
    time_shares,
    together,
    waited_for,
)
from airtune.workload.decisions import SplitFlops
from tests.cli.conftest import quick
from tests.report.views import records

DEVICES = ("pixel-9", "laptop-cpu", "board")
NAMES = tuple(f"client {k} ({device})" for k, device in enumerate(DEVICES))


def record(*delays: Sequence[float], outcomes: Sequence[str] = (), **changes: Any) -> RoundRecord:
    """A round of clients with (broadcast, compute, upload) seconds each."""
    (filled,) = records(rounds=1, clients=len(delays))
    entries = [
        replace(entry, outcome=outcome, broadcast_s=b, compute_s=c, upload_s=u)
        for entry, outcome, (b, c, u) in zip(
            filled.clients, outcomes or ["in_time"] * len(delays), delays, strict=True
        )
    ]
    ends = [sum(part) for part in delays]
    made = replace(filled, clients=entries, latency_s=max(ends), straggler=int(np.argmax(ends)))
    return replace(made, **changes)


def clients(made: RoundRecord) -> list[int]:
    return [entry.client for entry in last_clients(made)]


def test_clients_apart_by_rounding_end_together() -> None:
    close = record((1.0, 2.0, 3.0), (1.0, 3.0, 2.0 - 6e-14), (1.0, 1.0, 4.0))
    assert together(close)
    assert waited_for(close, NAMES) == "all 3 together, upload 50 %"
    told = ending_sentences({"rounds": 1, **ending([close], DEVICES)})
    assert told == [
        "All clients ended together in 1 of 1 rounds.",
        "A round's time was 50 % upload, 33 % computing and 17 % broadcast.",
    ]


@pytest.mark.parametrize("gap", [0.5 * TOGETHER, 2.0 * TOGETHER])
def test_the_tolerance_is_a_share_of_the_round(gap: float) -> None:
    for size in (1e-3, 1.0, 1e4):
        made = record((0, 0, size), (0, 0, size * (1.0 - gap)))
        assert together(made) == (gap < TOGETHER)


def test_a_true_straggler_is_named_with_its_stage_and_the_time() -> None:
    made = [record((1, 1, 2), (1, 5, 2), (1, 1, 1)), record((1, 1, 8), (1, 1, 3), (1, 1, 3))]
    made[0] = replace(made[0], straggler_stage="compute")
    made += [made[0]]
    told = ending_sentences({"rounds": 3, **ending(made, DEVICES)})
    assert told == [
        "Client 1 (laptop-cpu) was last in 2 of 3 rounds, furthest behind the others in its "
        "computing.",
        # Rounds of 8, 10 and 8 s: 5 + 1 + 5 computing, 2 + 8 + 2 upload, 1 each broadcast.
        "A round's time was 46 % upload, 42 % computing and 12 % broadcast.",
    ]
    assert waited_for(made[0], NAMES) == "client 1 (laptop-cpu), computing 62 %"


def test_two_of_three_together() -> None:
    made = record((1, 1, 2), (1, 1, 2), (1, 1, 1))
    assert clients(made) == [0, 1]
    assert waited_for(made, NAMES) == "2 of 3 together, upload 50 %"


def test_late_and_silent_clients_are_those_waited_for() -> None:
    late = record((1, 1, 2), (1, 1, 4), outcomes=("in_time", "late"))
    assert clients(late) == [1]
    silent = record((1, 1, 2), (1, 0, 0), outcomes=("in_time", "silent"), latency_s=6.0)
    assert clients(silent) == [1]
    assert time_shares([silent]) == pytest.approx(
        {"waiting for silent clients": 5 / 6, "broadcast": 1 / 6}
    )
    # Without a deadline nobody waits for a silent client.
    unnoticed = record((1, 1, 2), (1, 0, 0), outcomes=("in_time", "silent"))
    assert clients(unnoticed) == [0]


def test_one_client_is_no_straggler_and_nobody_is_not_named() -> None:
    alone = record((1, 1, 2))
    assert not together(alone)
    assert ending([alone], DEVICES)["straggler"] is None
    empty = record((1, 1, 2), clients=[], latency_s=3.0)
    assert waited_for(empty, NAMES) == "-"
    assert ending([empty], DEVICES)["straggler"] is None


def test_a_split_round_is_judged_without_waiting() -> None:
    made = record((1, 1, 2), (1, 1, 1))
    waits = replace(made.clients[1], wait_s=1.0)
    assert clients(replace(made, clients=[made.clients[0], waits])) == [0]


def test_rounding_does_not_choose_the_recorded_straggler() -> None:
    """Every client is as far behind in its slow stage; noise must not tell them apart."""
    draw = np.random.default_rng(0)
    base = np.array([[1.0, 1, 1, 1], [3, 1, 3, 1], [1, 3, 1, 3]])
    found = {
        (result.straggler, result.stage)
        for _ in range(20)
        for result in [round_latency(StageDelays(*(base * (1 + 1e-9 * draw.normal(size=(3, 4))))))]
    }
    assert found == {(0, "compute")}


class Replayed(Backend):
    """Trains once, and answers later rounds with the same index from memory."""

    def __init__(self, true: Backend) -> None:
        self.true, self.known = true, dict[int, list[ClientReport]]()

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        number = tasks[0].round_index
        if number not in self.known:
            self.known[number] = list(self.true.run(tasks))
        yield from self.known[number]


def _scaled(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """FLOPs and bits times 1 + e, e a draw from [-1e-9, 1e-9] for each round and client."""

    def wrap(name: str) -> None:
        true: Callable[..., float] = getattr(RoundCosts, name)

        def scaled(charges: RoundCosts, plan: Any, *others: Any) -> float:
            draw = np.random.default_rng((seed, charges.round_index, abs(plan.client)))
            return true(charges, plan, *others) * (1.0 + draw.uniform(-1e-9, 1e-9))

        monkeypatch.setattr(RoundCosts, name, scaled)

    for name in ("compute_flops", "payload_bits", "charged_bits", "downlink_bits"):
        wrap(name)
    work = SplitRoundCosts._work

    def scaled_work(flops: Sequence[Sequence[SplitFlops]], *names: str) -> FloatArray:
        draw = np.random.default_rng((seed, len(flops), *map(ord, names[0])))
        return work(flops, *names) * (1.0 + draw.uniform(-1e-9, 1e-9, len(flops)))

    monkeypatch.setattr(SplitRoundCosts, "_work", staticmethod(scaled_work))


def _everything_said(world: World, figures: bool = True) -> list[str]:
    """Terminal (of which the README shows a part) and report of a run."""
    state, made = world.start(), []
    context = world.context
    for _ in range(world.config.rounds):
        outcome = run_round(context, state)
        state = outcome.state
        made.append(outcome.record)
    summary = summarise(world, state, made)
    stream = StringIO()
    console = Console(file=stream, width=200)
    with RoundsView(console) as shown:
        shown.start(0, len(made), context.names)
        for each in made:
            shown.round(each)
    print_summary(console, summary, "runs/001")
    view = report_view(world, summary, made)
    panels = [panel for made in run_panels(view).values() for panel in made] if figures else []
    return [
        stream.getvalue(),
        *run_sentences(view),
        *(panel.title for panel in panels),
        *(panel.caption for panel in panels),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        (),
        pytest.param(("fedlora.bandwidth=equal",), marks=pytest.mark.slow),
        *(
            pytest.param((f"method={method}",), marks=pytest.mark.slow, id=method)
            for method in (
                *("jcpba", "soft_tsfa", "hetlora", "ffa_lora", "centralised"),
                *("sflllm", "hsfl", "epsl", "fedsl", "sampled_lora", "fedex_lora"),
            )
        ),
    ],
)
def test_no_sentence_depends_on_the_ninth_digit(
    changes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airtune.experiment.closing.samples", lambda *others: [])
    monkeypatch.setattr("airtune.experiment.closing._scores", lambda *others: {})
    settings = quick("data.score_rows=0", "clients.count=4", *changes)[1::2]
    world = build_world(read_config(None, settings))
    context = replace(world.context, backend=Replayed(world.context.backend))
    first = context.evaluate({**world.untrained})
    world = replace(world, context=replace(context, evaluate=lambda adapter: first))
    said = _everything_said(world)
    together = any("ended together in 2 of 2" in sentence for sentence in said)
    assert together == {(): True, ("fedlora.bandwidth=equal",): False}.get(changes, together)
    for seed in range(20):
        with monkeypatch.context() as patch:
            _scaled(patch, seed)
            # Figures are slow to make; the long test has them for every seed.
            told = _everything_said(world, figures=bool(changes) or seed < 2)
            assert told == said[: len(told)]
