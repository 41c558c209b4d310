"""soft_tsfa end to end on the built-in model: ranks are planned, trained, sent and averaged."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import build_world
from airtune.federated.observation import planning_view
from airtune.federated.records.checkpoint import read_checkpoint
from airtune.federated.round import run_round, start_round
from airtune.methods.soft_tsfa.compose import dropped_share
from airtune.methods.soft_tsfa.layout import RankLayout
from airtune.methods.soft_tsfa.options import SoftTsfaSection
from airtune.methods.soft_tsfa.planner import TsfaPlanner, settle
from airtune.quantities import format_duration
from airtune.update.server import Aggregator, Update
from airtune.wireless.rate import ShannonLinks
from tests.cli.conftest import quick
from tests.cli.test_run import fingerprint
from tests.report.views import records


def settings(*changes: str) -> list[str]:
    # Little bandwidth, so that there is something to save.
    narrow = ("method=soft_tsfa", "adapter.rank=4", "cell.bandwidth_hz=2e5")
    return quick(*narrow, *changes)[1::2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return Experiment.load(None, settings()).run(tmp_path_factory.mktemp("soft") / "run")


def sent(record: dict[str, Any]) -> list[float]:
    return [entry.get("sparsity", 0.0) for entry in record["clients"]]


def test_planned_is_charged_and_ranks_are_dropped(run: Any) -> None:
    for record in run.records:
        assert record["latency_s"] == pytest.approx(record["planned_latency_s"], rel=1e-9)
        assert all(share < 1 for share in sent(record))
        assert record["plan"]["objective_lower_bound"] <= record["plan"]["objective"]
    assert max(map(max, map(sent, run.records))) > 0


def test_the_queue_follows_the_charged_latency(run: Any) -> None:
    target = run.config.section(SoftTsfaSection).latency_target_s
    queue = run.config.section(SoftTsfaSection).virtual_queue
    for record in run.records:
        assert record["plan"]["virtual_queue_s"] == queue
        queue = max(queue + record["latency_s"] - target, 0.0)
    assert run.state.planner["virtual_queue"] == queue


@pytest.mark.parametrize(
    "changes",
    [
        ("soft_tsfa.selection=global",),
        ("soft_tsfa.uplink_dtype=int8", "soft_tsfa.importance=norm"),
        ("soft_tsfa.uplink_dtype=bf16", "soft_tsfa.solver=fixed-sparsity"),
        ("soft_tsfa.sparsifier=random",),
        ("soft_tsfa.sparsifier=top-k",),
        ("soft_tsfa.sparsifier=svd",),
        ("soft_tsfa.sparsifier=dense", "soft_tsfa.downlink_dtype=fp16"),
        ("soft_tsfa.sparsifier=dense", "soft_tsfa.uplink_dtype=int8"),
        ("soft_tsfa.sparsifier=top-k", "soft_tsfa.uplink_dtype=int8"),
        (
            "soft_tsfa.error_feedback=true",
            "soft_tsfa.merge=mean",
            "soft_tsfa.orthogonalise=none",
            "training.keep_optimizer=true",
        ),
        ("adapter.rank=1",),
    ],
)
def test_planned_bits_are_encoded_bits(changes: tuple[str, ...]) -> None:
    world = build_world(read_config(None, settings(*changes)))
    state = world.start()
    start = start_round(world.context, state)
    outcome = run_round(world.context, state)
    for plan, entry in zip(start.plan.clients, outcome.record["clients"], strict=True):
        assert entry["uplink_bits"] == start.costs.payload_bits(plan)
    assert outcome.record["latency_s"] == pytest.approx(start.plan.predicted_latency_s, rel=1e-9)


def test_the_plan_knows_nothing_of_its_own_round(run: Any) -> None:
    world = build_world(run.config)
    before = read_checkpoint(run.folder.checkpoints / "round-00001.safetensors").state
    planned = start_round(world.context, before).plan
    record = run.records[1]
    assert [p.bandwidth_hz for p in planned.clients] == [
        entry["bandwidth_hz"] for entry in record["clients"]
    ]
    # What it does know is what clients reported with their updates of the round before.
    forgotten = replace(before, planner={**before.planner, "energies": {}})
    assert start_round(world.context, forgotten).plan != planned


def test_reports_are_shares_of_each_client(run: Any) -> None:
    energies = run.state.planner["energies"]
    assert sorted(energies) == ["0", "1", "2"]
    for shares in energies.values():
        assert sum(shares) == pytest.approx(1.0)
        assert shares == sorted(shares, reverse=True)


def test_factors_start_and_stay_orthogonal(run: Any) -> None:
    from airtune.tuning.orthogonality import mean_cosine

    world = build_world(run.config)
    start = world.unmeasured_start().adapter
    assert mean_cosine(start).lora_a < 1e-6
    assert all(not x.any() for name, x in start.items() if ".lora_B." in name)
    for record in run.records:
        assert 0 <= record["measured"]["cosine_a"] < 0.1
        assert record["measured"]["covariance_energy"] >= 0
        assert record["measured"]["dropped_energy"] < record["measured"]["update_energy"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param((), marks=pytest.mark.slow),
        (
            "soft_tsfa.error_feedback=true",
            "soft_tsfa.merge=mean",
            "soft_tsfa.orthogonalise=none",
        ),
    ],
)
def test_resumed_and_rerun_to_the_same_bytes(changes: tuple[str, ...], tmp_path: Path) -> None:
    Experiment.load(None, settings(*changes)).run(tmp_path / "whole")
    Experiment.load(None, settings("rounds=1", *changes)).run(tmp_path / "short")
    Experiment.resume(tmp_path / "short", more_rounds=1)
    assert fingerprint(tmp_path / "short") == fingerprint(tmp_path / "whole")


@pytest.mark.slow
def test_workers_give_the_same_bytes(run: Any, tmp_path: Path) -> None:
    Experiment.load(None, settings("engine=workers")).run(tmp_path / "workers")
    ours, theirs = fingerprint(tmp_path / "workers"), fingerprint(run.folder.path)
    for name in ("experiment.yaml", "report.html"):
        ours.pop(name), theirs.pop(name)
    assert ours == theirs


def test_adapter_in_plain_peft_gives_the_reported_loss(run: Any) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from airtune.tuning.base_model import model_location
    from airtune.tuning.evaluate import evaluate

    base = AutoModelForCausalLM.from_pretrained(model_location("builtin"))
    tuned = PeftModel.from_pretrained(base, run.folder.adapter).eval()
    world = build_world(run.config)
    reported = json.loads((run.folder.path / "summary.json").read_text())["final_test_loss"]
    assert evaluate(tuned, world.tests.batches()).loss == pytest.approx(reported, abs=1e-5)


def test_what_is_derived_is_written_down(run: Any) -> None:
    section = run.config.methods["soft_tsfa"]
    assert section.latency_target_s is not None
    assert section.v is not None
    assert section.virtual_queue is not None
    # Settling again from the written options changes nothing.
    again = build_world(run.config)
    assert again.config.methods["soft_tsfa"] == section
    # At the written ratio Q / V the first rounds' mean latency meets the target, not far below it.
    planner = again.context.method.planner
    views = [planning_view(again.context, index) for index in range(8)]
    state = {"energies": {}, "virtual_queue": section.virtual_queue}

    def mean_latency(factor: float) -> float:
        scaled = {**state, "virtual_queue": factor * section.virtual_queue}
        return float(np.mean([planner.plan(v, scaled).predicted_latency_s for v in views]))

    assert mean_latency(1e3) < mean_latency(1.0) <= 1.005 * section.latency_target_s
    assert section.latency_target_s < mean_latency(0.9) < mean_latency(1e-6)


def test_a_target_out_of_reach_is_kept_and_said(tmp_path: Path) -> None:
    world = build_world(
        read_config(
            None, settings("soft_tsfa.latency_target_s=0.01", "soft_tsfa.outage_latency_s=1e3")
        )
    )
    assert any("cannot be reached" in notice for notice in world.notices)
    assert world.config.section(SoftTsfaSection).latency_target_s == 0.01


def test_a_client_in_outage_is_skipped() -> None:
    world = build_world(read_config(None, settings()))
    view = planning_view(world.context, 0)
    planner = world.context.method.planner
    problem = planner.problem(view, planner.initial_state())  # type: ignore[attr-defined]
    alone = problem.compute_delay_s + problem.least_bits / problem.links.rate(
        np.full(3, problem.bandwidth_hz)
    )
    limit = float(np.sort(alone)[1:].mean())
    strict = replace(planner, outage_latency_s=limit)  # type: ignore[type-var]
    plan = strict.plan(view, strict.initial_state())
    slowest = int(view.cohort[int(np.argmax(alone))])
    assert list(plan.skipped) == [slowest]
    assert "outage" in plan.skipped[slowest]
    assert len(plan.clients) == 2


@pytest.mark.slow
def test_a_deadline_is_kept_where_it_can_be() -> None:
    free = Experiment.load(None, settings("soft_tsfa.sparsifier=dense")).preview()["latency_s"]
    fast = Experiment.load(None, settings("soft_tsfa.v=0", "soft_tsfa.virtual_queue=1"))
    deadline = 0.5 * (free + fast.preview()["latency_s"])
    lazy = settings("soft_tsfa.virtual_queue=0", "soft_tsfa.v=1", f"deadline_s={deadline}")
    assert Experiment.load(None, lazy).preview()["latency_s"] <= deadline


@pytest.mark.parametrize("sparsifier", ["random", "top-k", "svd", "dense"])
def test_global_selection_needs_importance(sparsifier: str) -> None:
    changes = settings("soft_tsfa.selection=global", f"soft_tsfa.sparsifier={sparsifier}")
    with pytest.raises(InputError, match="per-layer with this sparsifier"):
        build_world(read_config(None, changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (("soft_tsfa.error_feedback=true",), r"soft_tsfa\.merge is sent"),
        (
            ("soft_tsfa.error_feedback=true", "soft_tsfa.merge=mean"),
            r"soft_tsfa\.orthogonalise is svd",
        ),
        (("server.optimizer=momentum",), r"server\.optimizer is momentum"),
    ],
)
def test_parts_that_cannot_work_together(changes: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        build_world(read_config(None, settings(*changes)))


@pytest.mark.slow
def test_the_gauge_is_exact_and_the_penalty_is_not() -> None:
    from airtune.federated.round import run_round
    from airtune.tuning.orthogonality import mean_cosine

    worst = {}
    for name, changes in {
        "gauge": (),
        "penalty": ("soft_tsfa.orthogonalise=none", "soft_tsfa.penalty=0.1"),
    }.items():
        world = build_world(read_config(None, settings(*changes)))
        outcome = run_round(world.context, world.start())
        cosine = mean_cosine(outcome.state.adapter)
        worst[name] = max(cosine.lora_a, cosine.lora_b)
        assert outcome.record["measured"]["cosine_b"] == pytest.approx(cosine.lora_b)
    assert worst["gauge"] < 1e-6 < worst["penalty"] < 0.2


def test_charging_another_model_scales_the_plan_not_its_meaning() -> None:
    changes = settings("charge_as=gpt2", "clients.devices=[macbook-pro-m3-pro]")
    world = build_world(read_config(None, changes))
    start = start_round(world.context, world.unmeasured_start())
    assert start.costs.payload_bits(start.plan.clients[0]) > 3e6
    with pytest.raises(InputError, match="charge_as"):
        build_world(read_config(None, [*changes, "soft_tsfa.selection=global"]))


@dataclass
class Remembering(Aggregator):
    """Merges as another aggregator does, and keeps what it was given."""

    merge: Aggregator
    given: list[Update] = field(default_factory=list)

    def aggregate(self, state: Any, updates: Any) -> dict[str, Any]:
        self.given += updates
        return self.merge.aggregate(state, updates)


def test_what_was_sent_is_what_the_payload_says() -> None:
    """int8 rounds small changes to 0; they were sent all the same."""
    int8 = ("soft_tsfa.uplink_dtype=int8", "soft_tsfa.solver=fixed-sparsity")
    world = build_world(read_config(None, settings(*int8, "soft_tsfa.sparsity=0.5")))
    merge = Remembering(world.context.method.aggregator)
    context = replace(world.context, method=replace(world.context.method, aggregator=merge))
    run_round(context, world.start())
    assert len(merge.given) == 3
    zeros = 0
    for update in merge.given:
        assert update.sent is not None
        masks = [mask[:, 0] for name, mask in update.sent.items() if ".lora_A." in name]
        assert [int(mask.sum()) for mask in masks] == [2] * len(masks)
        zeros += sum(int((m & (update.change[n] == 0)).sum()) for n, m in update.sent.items())
    assert zeros > 100


def test_a_rank_that_was_rounded_to_zero_was_not_dropped() -> None:
    layout = RankLayout((4,), (6,), "per-layer")
    sent = {
        "m.lora_A.weight": torch.zeros(4, 3, dtype=torch.bool),
        "m.lora_B.weight": torch.zeros(3, 4, dtype=torch.bool),
    }
    sent["m.lora_A.weight"][[0, 2]] = True
    assert dropped_share(layout, [0.5, 0.3, 0.1, 0.1], sent) == pytest.approx(0.4)
    assert dropped_share(layout, [0.5, 0.3, 0.1, 0.1], None) == 0.0


@pytest.mark.parametrize(("limit", "idle_s"), [(None, 3.5), (2.0, 2.0)])
def test_a_round_in_outage_waits_the_limit(limit: float | None, idle_s: float) -> None:
    """And the queue grows by what that is above the target."""
    planner = TsfaPlanner(
        RankLayout((4,), (100,), "global"), latency_target_s=0.7, v=1.0, outage_latency_s=limit
    )
    view: Any = None  # the limit does not depend on the round
    assert planner.idle_s(view) == idle_s
    state = {"virtual_queue": 1.0, "energies": {}}
    after = planner.after_round(state, replace(records(rounds=1)[0], latency_s=idle_s))
    assert after["virtual_queue"] == pytest.approx(1.0 + idle_s - 0.7)


@pytest.mark.parametrize(
    "changes",
    [(), ("soft_tsfa.selection=global",), ("soft_tsfa.solver=dense",), ("hurry",)],
    ids=lambda changes: ",".join(changes) or "plain",
)
def test_the_verdict_is_that_of_the_plan_that_runs(changes: tuple[str, ...]) -> None:
    """Objective, bound, status and sentence once more, from the plan's ranks, bits and bands."""
    world = build_world(read_config(None, settings(*(c for c in changes if c != "hurry"))))
    view, planner = planning_view(world.context, 0), world.context.method.planner
    assert isinstance(planner, TsfaPlanner)
    state = planner.initial_state()
    if "hurry" in changes:
        # A deadline that the plan for this queue misses: the plan that keeps it costs more.
        state = {**state, "virtual_queue": 1e-3 * state["virtual_queue"]}
        slow = planner.plan(view, state).predicted_latency_s
        view = replace(view, deadline_s=0.8 * slow)
    plan, problem = planner.plan(view, state), planner.problem(view, state)
    if view.deadline_s is not None:
        assert plan.predicted_latency_s <= view.deadline_s
    rates = view.uplink.rate(np.array([entry.bandwidth_hz for entry in plan.clients]))
    latency = max(
        view.broadcast_s + view.costs.compute_s(entry) + view.costs.payload_bits(entry) / rate
        for entry, rate in zip(plan.clients, rates, strict=True)
    )
    assert plan.predicted_latency_s == pytest.approx(latency, rel=1e-9)
    dropped = plan.extras["planned_dropped_energy"]
    objective, bound = plan.extras["objective"], plan.extras["objective_lower_bound"]
    assert dropped is not None
    assert objective is not None
    assert planner.v is not None
    wanted = planner.v * dropped + state["virtual_queue"] * latency
    assert objective == pytest.approx(wanted, rel=1e-9)
    if planner.solver == "dense":
        assert bound is None
        assert plan.message.startswith("Feasible: ")
    else:
        assert bound is not None
        assert bound <= objective
        assert (plan.status == "optimal") == (objective - bound <= 1e-6 * bound)
        assert f"{100 * (objective / bound - 1):.2g} % above" in plan.message
    assert f"the round takes {format_duration(latency)}" in plan.message
    assert problem.virtual_queue == plan.extras["virtual_queue_s"]


def test_rounds_in_outage_count_where_the_target_is_judged() -> None:
    """Two of the first eight channels lose every client; each such round waits the limit."""
    world = build_world(read_config(None, settings()))
    planner = world.context.method.planner
    assert isinstance(planner, TsfaPlanner)
    views = [planning_view(world.context, index) for index in range(8)]
    weak = ShannonLinks(np.full(3, 1e-3))
    seen = [replace(view, uplink=weak) if k in (2, 5) else view for k, view in enumerate(views)]
    open_one = replace(planner, latency_target_s=None, v=None, virtual_queue=None)
    open_one = replace(open_one, outage_latency_s=60.0)
    settled = settle(open_one, lambda index: seen[index])
    without = settle(open_one, lambda index: views[index])
    assert settled.options["latency_target_s"] > 0.25 * 60.0
    assert settled.options["latency_target_s"] > without.options["latency_target_s"]
    assert settled.notices == ()
    tight = replace(open_one, latency_target_s=without.options["latency_target_s"])
    assert any("cannot be reached" in one for one in settle(tight, lambda k: seen[k]).notices)
    assert settle(tight, lambda k: views[k]).notices == ()
