"""jcpba end to end on the built-in model: slices are planned, trained, sent and merged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import build_world
from airtune.federated.charging.charge import expected_charges
from airtune.federated.round import start_round
from airtune.methods.jcpba.calibration import calibration_batches
from airtune.methods.jcpba.planner import JcpbaPlanner
from airtune.round_plan import ClientPlan
from tests.cli.conftest import quick
from tests.cli.test_run import fingerprint


def settings(*changes: str) -> list[str]:
    return quick("method=jcpba", "jcpba.pruning_budget=0.3", *changes)[1::2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return Experiment.load(None, settings()).run(tmp_path_factory.mktemp("jcpba") / "run")


def test_planned_is_charged_and_the_budget_holds(run: Any) -> None:
    for record in run.records:
        rates = np.array([entry.get("pruning_rate", 0.0) for entry in record["clients"]])
        assert 0 < rates.max() <= 0.9
        assert rates.mean() <= 0.3 + 1e-12
        assert record["latency_s"] == pytest.approx(record["planned_latency_s"], rel=1e-9)


def test_a_slice_computes_and_sends_less(run: Any, tmp_path: Path) -> None:
    whole = Experiment.load(None, quick()[1::2]).run(tmp_path / "whole").records[0]
    sliced = run.records[0]
    pruned = [e for e in sliced["clients"] if e.get("pruning_rate", 0) > 0.1]
    assert pruned
    for entry in pruned:
        same = whole["clients"][entry["client"]]
        assert entry["flops"] < (1 - 0.4 * entry["pruning_rate"]) * same["flops"]
        assert entry["uplink_bits"] < same["uplink_bits"]
    assert sliced["latency_s"] < whole["latency_s"]


@pytest.mark.parametrize("name", ["gpt2", "qwen2.5-0.5b"])
def test_another_models_slices_are_charged(name: str) -> None:
    """Bits and FLOPs of the charged model's own slice, though another model's is trained."""
    from airtune.workload.adapter_shape import AdapterShape, adapter_parameters
    from airtune.workload.architecture import pruned
    from tests.workload.small_models import published

    devices = "clients.devices=[macbook-pro-m3-pro]"
    world = build_world(read_config(None, settings(f"charge_as={name}", devices)))
    start = start_round(world.context, world.unmeasured_start())
    architecture, adapter = published(name), AdapterShape(2, "all-linear")
    assert 0 < max(plan.pruning_rate for plan in start.plan.clients) < 0.9
    for plan in start.plan.clients:
        count = adapter_parameters(pruned(architecture, plan.pruning_rate), adapter)
        # The frame's header is what is more.
        assert 32 * count < start.costs.payload_bits(plan) < 32 * count + 8 * 100


def test_resumed_and_rerun_to_the_same_bytes(run: Any, tmp_path: Path) -> None:
    Experiment.load(None, settings("rounds=1")).run(tmp_path / "short")
    Experiment.resume(tmp_path / "short", more_rounds=1)
    assert fingerprint(tmp_path / "short") == fingerprint(run.folder.path)


def test_the_adapter_is_whole(run: Any) -> None:
    config = json.loads((run.folder.adapter / "adapter_config.json").read_text())
    assert config["r"] == 2
    result = run.evaluate()
    assert result["tuned"]["test_loss"] == run.summary["final_test_loss"]


@pytest.mark.parametrize("solver", ["bcd", "equal", "uniform-pruning", "no-pruning", "none"])
def test_no_solver_beats_the_exact_one(run: Any, solver: str, tmp_path: Path) -> None:
    preview = Experiment.load(None, settings(f"jcpba.solver={solver}")).preview()
    # Rounding to realisable rates may cost the exact plan a little.
    assert preview["latency_s"] >= 0.99 * run.records[0]["latency_s"]


def test_a_small_device_is_pruned_to_fit(tmp_path: Path) -> None:
    own = tmp_path / "devices.yaml"
    sources = "{training_flop_rate: x, memory_bytes: x, computing_power_w: x, tx_power_dbm: x}"
    own.write_text(
        "tiny: {training_flop_rate: 1e9, memory_bytes: 18000000, computing_power_w: 1, "
        f"tx_power_dbm: 20, sources: {sources}}}\n"
    )
    changes = (f"clients.device_file={own}", "clients.devices=[tiny, laptop-cpu, laptop-cpu]")
    with pytest.raises(InputError, match="memory of client 0"):
        build_world(read_config(None, quick(*changes)[1::2]))
    world = build_world(read_config(None, settings(*changes)))
    costs = world.context.costs.in_round(0)
    least = costs.least_rate(ClientPlan(0, 0.0, 0.0, 8))
    assert 0 < least < 0.9
    preview = Experiment.load(None, settings(*changes)).preview()
    assert preview["clients"][0]["client"] == 0


def test_the_pruning_term_is_recorded(run: Any) -> None:
    for record in run.records:
        rates = [entry.get("pruning_rate", 0.0) for entry in record["clients"]]
        weights = build_world(run.config).context.weights
        assert record["measured"]["pruning_term"] == pytest.approx(
            np.average(rates, weights=weights)
        )
        # The units that go are the small ones.
        assert 0 < record["measured"]["pruned_energy"] < record["measured"]["pruning_term"]


@pytest.mark.parametrize("importance", ["activations", "random"])
@pytest.mark.slow
def test_another_importance_prunes_other_units_and_resumes(importance: str, tmp_path: Path) -> None:
    rows = ("jcpba.calibration_rows=4",) if importance == "activations" else ()
    changes = settings(f"jcpba.importance={importance}", *rows)
    Experiment.load(None, changes).run(tmp_path / "whole")
    Experiment.load(None, [*changes, "rounds=1"]).run(tmp_path / "short")
    Experiment.resume(tmp_path / "short", more_rounds=1)
    assert fingerprint(tmp_path / "short") == fingerprint(tmp_path / "whole")


def test_calibration_rows_are_public_and_the_same_everywhere() -> None:
    config = read_config(
        None, settings("jcpba.calibration=builtin:slots", "jcpba.calibration_rows=20")
    )
    once, again = calibration_batches(config), calibration_batches(config)
    assert [len(batch.token_ids) for batch in once] == [16, 4]
    for a, b in zip(once, again, strict=True):
        assert (a.token_ids == b.token_ids).all()


def test_unknown_solver() -> None:
    with pytest.raises(InputError, match=r"jcpba\.solver is best"):
        JcpbaPlanner("best")


@pytest.mark.parametrize(
    "changes",
    [
        ("jcpba.uplink_dtype=fp32",),
        ("jcpba.uplink_dtype=int8",),
        ("jcpba.uplink_dtype=bf16",),
        ("codec={use: sliced, dtype: int8}",),
        ("codec={use: sliced, dtype: fp16}",),
        ("jcpba.importance=activations", "jcpba.calibration_rows=2"),
        ("charge_as=gpt2",),
    ],
)
@pytest.mark.parametrize("bandwidth_hz", ["5e5", "3e6"])
def test_bound_and_status_are_those_of_the_plan_that_runs(
    changes: tuple[str, ...], bandwidth_hz: str
) -> None:
    """The planner counts with the codec and the tuner that run, and judges the rounded plan."""
    world = build_world(
        read_config(
            None,
            settings(
                "clients.devices=[macbook-pro-m3-pro, laptop-cpu]",
                f"cell.bandwidth_hz={bandwidth_hz}",
                *changes,
            ),
        )
    )
    start = start_round(world.context, world.unmeasured_start())
    plan = start.plan
    assert plan.lower_bound_s is not None
    charged = expected_charges(world.context, start)
    latency_s = max(c.broadcast_s + c.compute_s + c.upload_s for c in charged)
    assert plan.predicted_latency_s == pytest.approx(latency_s, rel=1e-9)
    assert plan.lower_bound_s <= latency_s
    optimal = latency_s - plan.lower_bound_s <= 1e-9 * latency_s
    assert plan.status == ("optimal" if optimal else "feasible")
    assert plan.message.startswith("Optimal" if optimal else "Feasible, at most ")
    if not optimal:
        gap = 100 * (latency_s / plan.lower_bound_s - 1)
        assert f"at most {gap:.2g} % above the optimum" in plan.message
