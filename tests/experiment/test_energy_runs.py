"""Runs whose speed, power and bandwidth are planned: what is planned, charged and recorded."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airtune import Experiment
from airtune.cost.device import AMPLIFIER_EFFICIENCY, load_devices
from airtune.deploy.server import refuse_undeployable
from airtune.errors import AirtuneError, InputError
from airtune.experiment.reading import read_config
from airtune.experiment.run import Run
from airtune.experiment.world import build_world
from airtune.federated.checks.feasibility import BrokenRoundPlanError
from airtune.federated.energy_planner import EnergyPlanner
from airtune.federated.observation import planning_view
from airtune.federated.round import run_round, start_round
from airtune.validation.options import refuse_experiment
from airtune.wireless.rate import ShannonLinks
from tests.cli.conftest import quick
from tests.cli.test_run import fingerprint

PRUNED = ("method=jcpba", "adapter.rank=4")


def settings(*changes: str) -> list[str]:
    return quick("adapter.rank=4", *changes)[1::2]


def run_of(folder: Path, *changes: str) -> Run:
    return Experiment.load(None, settings(*changes)).run(folder)


def world_of(*changes: str) -> Any:
    return build_world(read_config(None, settings(*changes)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(tmp_path_factory.mktemp("weighed") / "run", "energy.weight_s_per_j=0.1")


def test_clock_and_energy_follow_speed_and_power(weighed: Run) -> None:
    """Every client's seconds and joules, by hand, from its decisions and the round's channel."""
    world = world_of("energy.weight_s_per_j=0.1")
    for record in weighed.records:
        truth = world.context.channel.observe(record.round - 1, None).truth
        ends = []
        for entry in record.clients:
            device = world.devices[entry.client]
            speed = entry.speed
            assert speed is not None
            assert 0 < speed < 1
            compute_s = entry.flops / (device.training_flop_rate * speed)
            assert entry.compute_s == pytest.approx(compute_s, rel=1e-12)
            full_w = float(world.context.tx_power_w[entry.client])
            assert entry.tx_power_w <= full_w * (1 + 1e-12)
            cn0 = truth.uplink(world.context.tx_power_w).effective_hz[entry.client]
            snr = entry.tx_power_w / full_w * cn0 / entry.bandwidth_hz
            rate = entry.bandwidth_hz * math.log2(1 + snr)
            assert entry.rate_bps == pytest.approx(rate, rel=1e-9)
            assert entry.upload_s == pytest.approx(entry.uplink_bits / rate, rel=1e-9)
            full, idle = device.computing_power_w, device.idle_power_w
            computing = (idle + (full - idle) * speed**3) * compute_s
            sending = entry.tx_power_w / AMPLIFIER_EFFICIENCY * entry.upload_s
            assert entry.energy_j == pytest.approx(computing + sending, rel=1e-9)
            ends.append(entry.broadcast_s + entry.compute_s + entry.upload_s)
        assert record.latency_s == pytest.approx(max(ends), rel=1e-12)
        # The estimate is perfect, so the plan is what is charged.
        assert record.planned_energy_j == pytest.approx(record.energy_j, rel=1e-12)
        assert record.planned_latency_s == pytest.approx(record.latency_s, rel=1e-12)


def test_energy_is_weighed_against_latency(plain: Run, weighed: Run) -> None:
    costs = [[r.latency_s + 0.1 * r.energy_j for r in run.records] for run in (weighed, plain)]
    for with_energy, without in zip(weighed.records, plain.records, strict=True):
        assert with_energy.energy_j < 0.8 * without.energy_j
        assert with_energy.latency_s >= without.latency_s
        # What is learned is the same: only time and energy change.
        assert with_energy.test_loss == without.test_loss
        assert with_energy.uplink_bits == without.uplink_bits
    assert (np.array(costs[0]) < np.array(costs[1])).all()
    for record in weighed.records:
        assert record.plan is not None
        value = record.latency_s + 0.1 * record.energy_j
        assert record.plan["objective"] == pytest.approx(value, rel=1e-9)
        assert record.plan["objective_lower_bound"] == pytest.approx(value, rel=1e-9)


def test_weight_0_has_the_latency_of_minmax(plain: Run, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "energy.weight_s_per_j=0")
    for record, other in zip(run.records, plain.records, strict=True):
        assert record.latency_s == pytest.approx(other.latency_s, rel=1e-9)
        assert record.energy_j <= other.energy_j * (1 + 1e-9)


def test_without_the_section_records_have_no_word_of_it(plain: Run) -> None:
    for line in (plain.folder.path / "rounds.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert "planned_energy_j" not in record
        assert all("speed" not in client for client in record["clients"])


def test_pruning_is_what_its_own_planner_decides() -> None:
    world, plain_world = world_of(*PRUNED, "energy.weight_s_per_j=0.2"), world_of(*PRUNED)
    assert isinstance(world.context.method.planner, EnergyPlanner)
    plan = start_round(world.context, world.unmeasured_start()).plan
    other = start_round(plain_world.context, plain_world.unmeasured_start()).plan
    assert [e.pruning_rate for e in plan.clients] == [e.pruning_rate for e in other.clients]
    assert max(e.pruning_rate for e in plan.clients) > 0
    assert min(e.speed for e in plan.clients) < 1
    assert plan.predicted_latency_s >= other.predicted_latency_s
    view = planning_view(plain_world.context, 0)
    before = float(view.energy_j(other.clients).sum())
    assert plan.predicted_energy_j is not None
    assert plan.predicted_energy_j < 0.8 * before


@pytest.mark.parametrize("method", ["hetlora", "ffa_lora", "fedlora"])
def test_any_method_that_divides_the_band_for_latency(method: str) -> None:
    world = world_of(f"method={method}", "energy.weight_s_per_j=0.2")
    outcome = run_round(world.context, world.unmeasured_start())
    assert outcome.record.planned_energy_j == pytest.approx(outcome.record.energy_j, rel=1e-9)


def test_budgets_hold_in_every_round(plain: Run, tmp_path: Path) -> None:
    spent = min(record.energy_j for record in plain.records)
    most = max(e.energy_j for record in plain.records for e in record.clients)
    run = run_of(
        tmp_path / "run", f"energy.budget_j={0.7 * spent}", f"energy.client_budget_j={0.8 * most}"
    )
    for record in run.records:
        assert record.energy_j <= 0.7 * spent * (1 + 1e-9)
        assert all(entry.energy_j <= 0.8 * most * (1 + 1e-9) for entry in record.clients)
    assert any(record.energy_j > 0.69 * spent for record in run.records)


def test_a_round_that_no_budget_allows_waits(tmp_path: Path) -> None:
    """A first round without a plan is refused before anything is written."""
    words = "The energy budget of 1 mJ is too small"
    with pytest.raises(AirtuneError, match=words):
        run_of(tmp_path / "run", "energy.budget_j=0.001")
    assert not (tmp_path / "run" / "rounds.jsonl").exists()
    world = world_of("energy.budget_j=0.001")
    record = run_round(world.context, replace(world.unmeasured_start(), rounds_done=1)).record
    assert not record.clients
    assert record.energy_j == 0
    assert record.latency_s > 0
    assert all(words in reason for reason in record.skipped.values())


def test_a_deadline_is_kept_with_the_least_energy(plain: Run) -> None:
    deadline = 1.5 * plain.records[0].latency_s
    world = world_of("energy.weight_s_per_j=.inf", f"deadline_s={deadline}")
    record = run_round(world.context, world.unmeasured_start()).record
    assert record.latency_s == pytest.approx(deadline, rel=1e-9)
    assert {entry.outcome for entry in record.clients} == {"in_time"}
    assert record.energy_j < 0.9 * plain.records[0].energy_j
    assert record.plan is not None
    assert record.plan["objective"] == pytest.approx(record.energy_j, rel=1e-9)


def test_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    changes = ("energy.weight_s_per_j=0.1", "cell.csi_error_db=2", "rounds=3")
    whole = run_of(tmp_path / "whole", *changes)
    run_of(tmp_path / "short", *changes[:-1], "rounds=1")
    Experiment.resume(tmp_path / "short", more_rounds=2)
    assert fingerprint(tmp_path / "short") == fingerprint(whole.folder.path)
    # With an error in the estimate what is charged differs from the plan.
    assert whole.records[0].energy_j != pytest.approx(whole.records[0].planned_energy_j, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("method=soft_tsfa",), "energy is given, but it must be left out with planner TsfaPl"),
        (("method=sflllm",), "energy is given, but it must be left out with planner"),
        (("cell.rate_model=cqi",), "cell.rate_model is cqi, but it must be shannon with the sec"),
        (("pacing.kind=buffered",), "planner is EnergyPlanner, but it must be one that plans a"),
        (("energy.weight_s_per_j=.inf",), "deadline_s is left out, but it must be given with en"),
        (("energy.weight_s_per_j=-1",), "energy.weight_s_per_j is -1"),
        (("energy.budget_j=0",), "energy.budget_j is 0"),
    ],
)
def test_what_cannot_be_planned_is_refused(changes: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        world_of("energy.weight_s_per_j=1", *changes)
    assert "\n" not in str(caught.value)


def test_a_device_without_idle_power_is_refused_by_name(tmp_path: Path) -> None:
    device = tmp_path / "own.yaml"
    device.write_text(
        "mine: {training_flop_rate: 2e10, memory_bytes: 8e9, computing_power_w: 5, "
        "tx_power_dbm: 23, sources: {training_flop_rate: a, memory_bytes: a, "
        "computing_power_w: a, tx_power_dbm: a}}\n"
    )
    own = ("clients.devices=mine", f"clients.device_file={device}")
    world = world_of(*own)
    run_round(world.context, world.unmeasured_start())
    with pytest.raises(InputError, match="idle_power_w of mine is not known"):
        world_of(*own, "energy.weight_s_per_j=1")


def test_real_machines_are_not_slowed() -> None:
    config = read_config(None, ["energy.weight_s_per_j=1"])
    for refuse in (refuse_undeployable, refuse_experiment):
        with pytest.raises(InputError, match="energy is given, but it must be left out"):
            refuse(config)


def test_less_power_than_the_client_has_is_charged_at_its_own_rate() -> None:
    """Of any planner: a lower transmit power must not keep the rate of the full one."""
    world = world_of()
    start = start_round(world.context, world.unmeasured_start())
    halved = tuple(replace(e, tx_power_w=0.5 * e.tx_power_w) for e in start.plan.clients)
    view = planning_view(world.context, 0)
    latency = view.latency_s(halved)
    assert latency > start.plan.predicted_latency_s
    other = replace(start, plan=replace(start.plan, clients=halved, predicted_latency_s=latency))
    record = run_round(world.context, world.unmeasured_start(), other).record
    assert record.latency_s == pytest.approx(latency, rel=1e-12)
    links = start.truth.uplink(0.5 * world.context.tx_power_w)
    assert isinstance(links, ShannonLinks)
    bands = np.array([entry.bandwidth_hz for entry in record.clients])
    assert [e.rate_bps for e in record.clients] == pytest.approx(list(links.rate(bands)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speed": 0.0}, "speed of client 0 is 0, allowed is above 0 to 1"),
        ({"speed": 1.5}, "speed of client 0 is 1.5"),
        ({"energy": 1.01}, "it predicts .* J and takes"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    changes: dict[str, float], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of("energy.weight_s_per_j=0.1")
    made = EnergyPlanner.plan

    def spoilt(self: EnergyPlanner, view: Any, state: Any) -> Any:
        plan = made(self, view, state)
        assert plan.predicted_energy_j is not None
        first = replace(plan.clients[0], speed=changes.get("speed", plan.clients[0].speed))
        energy = plan.predicted_energy_j * changes.get("energy", 1.0)
        clients = (first, *plan.clients[1:])
        return replace(plan, clients=clients, predicted_energy_j=energy)

    monkeypatch.setattr(EnergyPlanner, "plan", spoilt)
    with pytest.raises(BrokenRoundPlanError, match=words):
        start_round(world.context, world.unmeasured_start())


def test_the_shipped_devices_have_what_it_needs() -> None:
    assert all(device.idle_power_w is not None for device in load_devices().values())
