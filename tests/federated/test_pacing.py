"""Server steps without synchronous rounds, in the tiny world of `fakes`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from airtune.federated.backends.backend import ClientReport, ClientTask
from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.federated.context import CohortSettings, RoundContext
from airtune.federated.loop import StopRule, run_rounds
from airtune.federated.method import Planner, PlannerState
from airtune.federated.pacing.rules import Kind, Pacing, Staleness, StaleWeighting
from airtune.federated.pacing.step import run_step
from airtune.federated.records.checkpoint import ServerState, newest_checkpoint
from airtune.federated.records.record import RoundRecord
from airtune.federated.records.run_folder import RunFolder
from airtune.federated.round import run_round
from airtune.federated.view import PlanningView
from airtune.round_plan import Decision, Plan
from airtune.update.codec import DenseCodec
from airtune.update.server import Update
from airtune.update.weighting import Occasion
from tests.federated.fakes import FakeDevice, make_context

OWN = {"started", "in_flight", "version", "staleness", "share"}
"""Keys that only records of paced steps have."""


def towards(task: ClientTask) -> ClientReport:
    """One step of size .3 towards the client's own number + 1, and a draw of its own task."""
    start = DenseCodec().decode(task.broadcast, {"x": (2,)}, task.plan)["x"]
    goal = 1.0 + task.client + 0.1 * torch.cos(torch.tensor(float(7 * task.round_index)))
    change = {"x": 0.3 * (goal - start)}
    payload = DenseCodec().encode(change, task.plan)
    return ClientReport(task.client, payload, float((goal - start).abs().sum()), 3)


def world(
    pacing: Pacing | None = None,
    efficiency: tuple[float, ...] = (1.0, 2.0, 4.0),
    speeds: tuple[float, ...] = (10.0, 3.0, 40.0),
    **changes: Any,
) -> RoundContext:
    devices = [FakeDevice(training_flop_rate=speed) for speed in speeds]
    context = make_context(
        efficiency,
        script=changes.pop("script", towards),
        planner=changes.pop("planner", BandwidthPlanner("equal")),
        devices=devices,
        evaluate=changes.pop("evaluate", None) or make_context().evaluate,
        **changes,
    )
    costs = replace(context.costs, devices=devices)  # type: ignore[arg-type]
    weighting = None if pacing is None else StaleWeighting(pacing)
    method = replace(context.method, weighting=weighting)
    return replace(context, costs=costs, method=method, pacing=pacing)


def begin() -> ServerState:
    return ServerState({"x": torch.zeros(2)})


def steps(context: RoundContext, count: int) -> tuple[ServerState, list[RoundRecord]]:
    state, records = begin(), []
    for _ in range(count):
        run = run_round if context.pacing is None else run_step
        outcome = run(context, state)
        state = outcome.state
        records.append(outcome.record)
    return state, records


def plain(record: RoundRecord) -> dict[str, Any]:
    """A record as it is written, without what only paced steps have."""
    written = json.loads(json.dumps(dict(record), default=dict))
    written["clients"] = [
        {key: value for key, value in entry.items() if key not in OWN}
        for entry in written["clients"]
    ]
    return {key: value for key, value in written.items() if key not in OWN}


def assert_same_run(one: RoundContext, other: RoundContext, count: int = 6) -> None:
    """To the bit: adapters, clocks and everything in the records that both have."""
    first, records = steps(one, count)
    second, others = steps(other, count)
    assert torch.equal(first.adapter["x"], second.adapter["x"])
    assert first.clock == second.clock
    assert list(map(plain, records)) == list(map(plain, others))


RULES = [Staleness("polynomial", 0.5), Staleness("hinge", threshold=0), Staleness("constant")]


@pytest.mark.parametrize("planner", ["equal", "minmax"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_buffer_of_all_is_a_synchronous_run_to_the_bit(planner: str, dropout: float) -> None:
    parts: dict[str, Any] = {
        "planner": BandwidthPlanner(planner),
        "cohort": CohortSettings(dropout=dropout),
        "weights": np.array([3.0, 1.0, 2.5]),
    }
    assert_same_run(world(**parts), world(Pacing(Kind.BUFFERED, buffer=3), **parts))


def test_a_drawn_cohort_that_is_waited_for_is_that_of_a_synchronous_run() -> None:
    """The cohorts are; a client's own draws go by its own count of tasks."""
    cohort = CohortSettings(size=2)
    _, records = steps(world(cohort=cohort), 6)
    _, others = steps(world(Pacing(Kind.BUFFERED, buffer=2), cohort=cohort), 6)
    drawn = [[[entry.client for entry in r.clients] for r in run] for run in (records, others)]
    assert drawn[0] == drawn[1]
    assert len({tuple(one) for one in drawn[0]}) > 1


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
@pytest.mark.parametrize("kind", [Kind.ASYNCHRONOUS, Kind.BUFFERED])
def test_one_client_is_synchronous_under_any_rule(kind: Kind, rule: Staleness) -> None:
    alone: dict[str, Any] = {"efficiency": (1.5,), "speeds": (7.0,)}
    assert_same_run(world(**alone), world(Pacing(kind, staleness=rule), **alone))


class Slower(Planner):
    """The equal division, for one client with 7 FLOP/s at half of its speed."""

    decides = frozenset({Decision.SPEED})
    paces = frozenset({"fixed", "processor"})

    def plan(self, view: PlanningView, state: PlannerState) -> Plan:
        made = BandwidthPlanner("equal").plan(view, state)
        slow = tuple(replace(plan, speed=0.5) for plan in made.clients)
        longer_s = view.costs.compute_flops(made.clients[0]) / 7.0
        later_s = made.predicted_latency_s + longer_s
        return replace(made, clients=slow, predicted_latency_s=later_s, status="feasible")


def test_a_planned_speed_is_charged_on_a_shared_band_too() -> None:
    alone: dict[str, Any] = {"efficiency": (1.5,), "speeds": (7.0,), "planner": Slower()}
    _, whole = steps(world(**alone), 3)
    shared = Pacing(Kind.ASYNCHRONOUS, processor_sharing=True)
    _, records = steps(world(shared, **alone), 3)
    for record, other in zip(whole, records, strict=True):
        (one,), (client,) = record.clients, other.clients
        assert client.speed == one.speed == 0.5
        assert client.compute_s == one.compute_s
        assert client.energy_j == pytest.approx(one.energy_j, rel=1e-12)


def test_equal_devices_with_a_full_buffer_are_fedavg() -> None:
    """The average of the goals, by hand: all arrive together, none of them stale."""
    alike: dict[str, Any] = {"efficiency": (2.0, 2.0, 2.0), "speeds": (5.0, 5.0, 5.0)}
    state, records = steps(world(Pacing(Kind.BUFFERED, buffer=3), **alike), 4)
    x = 0.0
    for task in range(4):
        goal = 2.0 + 0.1 * float(np.cos(7.0 * task))
        x += 0.3 * (goal - x)
    assert state.adapter["x"].numpy() == pytest.approx([x, x], rel=1e-5)
    assert {entry.staleness for record in records for entry in record.clients} == {0}
    assert len({entry.upload_s for entry in records[0].clients}) == 1


PACINGS = [
    Pacing(Kind.ASYNCHRONOUS, mixing_rate=0.5),
    Pacing(Kind.BUFFERED, buffer=2, most_staleness=1),
    Pacing(Kind.SEMI, period_s=1.7, staleness=RULES[1]),
    Pacing(Kind.ASYNCHRONOUS, processor_sharing=True, most_staleness=2),
    Pacing(Kind.BUFFERED, buffer=2, processor_sharing=True),
    Pacing(Kind.SEMI, period_s=2.3, processor_sharing=True),
]


@pytest.mark.parametrize("pacing", PACINGS, ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_every_upload_is_applied_or_counted_as_dropped(pacing: Pacing, dropout: float) -> None:
    context = world(pacing, cohort=CohortSettings(dropout=dropout), speeds=(10.0, 1.5, 40.0))
    state, records = steps(context, 40)
    under_way = 0
    for record in records:
        assert record.started is not None
        under_way += len(record.started) - len(record.clients)
        assert record.in_flight == under_way
        for entry in record.clients:
            applied = entry.outcome == "in_time"
            assert (entry.share is not None) == applied
            old = pacing.most_staleness is not None and (entry.staleness or 0) > (
                pacing.most_staleness
            )
            assert entry.outcome == (
                "silent" if entry.staleness is None else "late" if old else "in_time"
            )
    assert state.in_flight is not None
    assert len(state.in_flight.flights) == under_way
    begun = sum(state.in_flight.begun.values())
    assert begun == sum(len(record.started or ()) for record in records)
    # What the server merged is what the records say: replay the shares.
    times = [record.virtual_time_s for record in records]
    assert times == sorted(times)
    assert sum(r.latency_s for r in records) == pytest.approx(times[-1])


@pytest.mark.parametrize("pacing", PACINGS, ids=str)
def test_the_order_of_arrivals_changes_no_draw(pacing: Pacing) -> None:
    """A client's k-th task is drawn alike, whoever is fast."""
    seen: list[dict[tuple[int, int], ClientTask]] = []
    for speeds in ((10.0, 3.0, 40.0), (40.0, 10.0, 3.0)):
        tasks: dict[tuple[int, int], ClientTask] = {}

        def script(task: ClientTask, tasks: Any = tasks) -> ClientReport:
            assert (task.client, task.round_index) not in tasks
            tasks[task.client, task.round_index] = task
            return towards(task)

        steps(world(pacing, speeds=speeds, script=script), 25)
        seen.append(tasks)
        for client in range(3):
            own = sorted(index for one, index in tasks if one == client)
            assert own == list(range(len(own)))
    assert seen[0].keys() != seen[1].keys()


@pytest.mark.parametrize("pacing", PACINGS, ids=str)
def test_a_resumed_run_is_the_whole_one(pacing: Pacing, tmp_path: Path) -> None:
    """From every checkpoint in mid-flight, to the byte."""
    context = world(pacing, cohort=CohortSettings(dropout=0.2))

    def run(folder: RunFolder, state: ServerState, until: int) -> ServerState:
        return run_rounds(context, state, folder, until, StopRule())

    whole = RunFolder(tmp_path / "whole")
    whole.path.mkdir()
    ended = run(whole, whole.save(begin()), 12)
    flown = 0
    for cut in (1, 4, 7):
        part = RunFolder(tmp_path / f"part-{cut}")
        part.path.mkdir()
        run(part, part.save(begin()), cut)
        found = newest_checkpoint(part.checkpoints, part.records_length())[0]
        assert found.state.in_flight is not None
        flown += len(found.state.in_flight.flights)
        again = run(part, found.state, 12)
        assert part.records.read_bytes() == whole.records.read_bytes()
        assert torch.equal(again.adapter["x"], ended.adapter["x"])
        name = "round-00012.safetensors"
        assert (part.checkpoints / name).read_bytes() == (whole.checkpoints / name).read_bytes()
    assert flown > 0


def test_shares_by_hand() -> None:
    pacing = Pacing(Kind.BUFFERED, buffer=2, mixing_rate=0.5, staleness=Staleness(exponent=1.0))
    updates = [Update(0, 3.0, {}), Update(4, 1.0, {})]
    occasion = Occasion(5, np.ones(5), staleness={0: 0, 4: 3})
    shares = StaleWeighting(pacing).shares(updates, occasion)
    assert shares == pytest.approx([0.5 * 0.75, 0.5 * 0.25 / 4.0])
    fresh = Pacing(Kind.BUFFERED, buffer=2)
    assert StaleWeighting(fresh).shares(updates, Occasion(5, np.ones(5))) is None


def test_rules_by_hand() -> None:
    hinge = Staleness("hinge", threshold=2, slope=0.5)
    assert [hinge.factor(a) for a in (0, 2, 3, 6)] == [1.0, 1.0, 1 / 1.5, 1 / 3.0]
    assert Staleness("polynomial", 0.5).factor(3) == 0.5
    assert {rule.factor(0) for rule in RULES} == {1.0}


def test_fixed_shares_keep_the_band() -> None:
    """At no time do tasks under way have more than the whole band."""
    context = world(Pacing(Kind.ASYNCHRONOUS), planner=BandwidthPlanner("minmax"))
    state = begin()
    for _ in range(15):
        state = run_step(context, state).state
        assert state.in_flight is not None
        kept = sum(flight.plan.bandwidth_hz for flight in state.in_flight.flights.values())
        assert kept <= context.bandwidth_hz * (1 + 1e-9)


def test_broadcasts_wait_for_each_other() -> None:
    """Equal clients at different speeds: the second broadcast begins when the first is over."""
    context = world(Pacing(Kind.ASYNCHRONOUS), efficiency=(1.0, 1.0), speeds=(1e9, 1.0001e9))
    _, records = steps(context, 3)
    alone = records[0].clients[0].broadcast_s
    # The second arrives while the first one is receiving again.
    assert records[1].latency_s < alone
    assert records[2].clients[0].broadcast_s == pytest.approx(alone, rel=1e-6)
    state, _ = steps(context, 2)
    following = run_step(context, state).state
    assert following.in_flight is not None
    waited = [one.record.broadcast_s for one in following.in_flight.flights.values()]
    assert max(waited) == pytest.approx(2 * alone - records[1].latency_s, rel=1e-6)


@pytest.mark.parametrize("delay", [0, 1, 2, 3])
@pytest.mark.parametrize("margin", [0.995, 1.005])
def test_the_stability_limit_of_a_delayed_quadratic(delay: int, margin: float) -> None:
    """`x <- x - eta L x_(t - d)` by the server steps themselves: d + 1 equal clients under way, one
    arrives a step, each stale by d. Stable exactly below 2 sin(pi / (2 (2 d + 1)))."""
    limit = margin * 2.0 * np.sin(np.pi / (2.0 * (2.0 * delay + 1.0)))

    def gradient(task: ClientTask) -> ClientReport:
        start = DenseCodec().decode(task.broadcast, {"x": (2,)}, task.plan)["x"]
        return ClientReport(
            task.client, DenseCodec().encode({"x": -limit * start}, task.plan), 1.0, 1
        )

    count = delay + 1
    context = world(
        Pacing(Kind.ASYNCHRONOUS, staleness=Staleness("constant")),
        efficiency=(1.0,) * count,
        # The first tasks end one after another; afterwards each takes as long as the others.
        speeds=(10.0,) * count,
        script=gradient,
    )
    state = replace(begin(), adapter={"x": torch.ones(2)})
    # Their order is by client number, one a step, so the first steps are less than d old.
    sizes, ages = [], []
    for _ in range(2400):
        outcome = run_step(context, state)
        state = outcome.state
        ages.append(outcome.record.clients[0].staleness)
        sizes.append(float(state.adapter["x"].abs().max()))
    assert set(ages[50:]) == {delay}
    early, late = max(sizes[200:400]), max(sizes[-200:])
    assert (late < early) == (margin < 1.0)
