"""Independent sampling end to end: unbiased, equal to fedlora where everybody takes part."""

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import World, build_world
from airtune.federated.checks.contracts import check_aggregator, check_codec
from airtune.federated.draw import Draw, independent_draw
from airtune.federated.round import start_round
from airtune.federated.sampling import Sampler
from airtune.federated.view import PlanningView
from airtune.files import read_yaml_mapping
from airtune.methods.sampled_lora.estimates import learned, norms_of
from airtune.methods.sampled_lora.problem import SOLVERS, answer, read
from airtune.methods.sampled_lora.terms import rank_choices, variance_terms
from airtune.round_plan import ClientPlan
from airtune.tuning.sketch import SketchTuner, sketch_mask, sketched_ranks
from airtune.tuning.tuner import FullTuner
from airtune.update.codec import DenseCodec, shapes_of
from airtune.update.means import FactorMean
from airtune.update.partial import FirstRanksCodec
from airtune.update.server import Update
from airtune.update.sketch import SketchCodec, SketchMean
from airtune.update.weighting import Occasion, Unbiased, weighed
from airtune.validation.options import refuse_experiment
from tests.cli.conftest import quick
from tests.cli.test_run import fingerprint
from tests.update.adapters import random_factors

ROOT = Path(__file__).parents[2]
NARROW = ("method=sampled_lora", "cell.bandwidth_hz=2e5", "adapter.rank=4")


def settings(*changes: str) -> list[str]:
    ranked = any(change.startswith("adapter.rank") for change in changes)
    kept = [key for key in quick()[1::2] if not (ranked and key.startswith("adapter.rank"))]
    return [*kept, *changes]


def world_of(*changes: str) -> World:
    return build_world(read_config(None, settings(*changes)))


def test_everybody_with_all_ranks_is_fedlora_bit_for_bit(tmp_path: Path) -> None:
    sampled = Experiment.load(
        None, settings("method=sampled_lora", "sampled_lora.participation=all")
    ).run(tmp_path / "sampled")
    plain = Experiment.load(None, settings("method=fedlora")).run(tmp_path / "plain")
    files = [run.folder.adapter / "adapter_model.safetensors" for run in (sampled, plain)]
    assert files[0].read_bytes() == files[1].read_bytes()
    for ours, theirs in zip(sampled.records, plain.records, strict=True):
        assert ours.latency_s == theirs.latency_s
        assert ours.test_loss == theirs.test_loss
        assert ours.uplink_bits == theirs.uplink_bits
        assert ours.downlink_bits == theirs.downlink_bits
        assert ours.energy_j == theirs.energy_j
        assert [entry.inclusion for entry in ours.clients] == [1.0] * 3
        assert [e.bandwidth_hz for e in ours.clients] == [e.bandwidth_hz for e in theirs.clients]


def test_a_large_band_takes_everybody(tmp_path: Path) -> None:
    world = world_of("method=sampled_lora", "cell.bandwidth_hz=1e11", "sampled_lora.least_rank=1")
    start = start_round(world.context, world.unmeasured_start())
    assert start.plan.extras["price"] == 0.0
    assert set(start.inclusion.values()) == {1.0}
    assert all(plan.sketch is None for plan in start.plan.clients)


@pytest.mark.parametrize(
    "changes",
    [
        (*NARROW, "sampled_lora.least_rank=1", "sampled_lora.alignment=1", "clients.count=5"),
        (*NARROW, "sampled_lora.participation=uniform", "cohort.dropout=0.2"),
    ],
)
def test_planned_is_charged_and_resumed_to_the_same_bytes(
    changes: tuple[str, ...], tmp_path: Path
) -> None:
    run = Experiment.load(None, settings(*changes)).run(tmp_path / "whole")
    planned = "sampled_lora.least_rank=1" in changes
    count, sketched, least = 5 if planned else 3, 0, 1.0
    for record in run.records:
        assert record.latency_s == pytest.approx(record.planned_latency_s, rel=1e-9)
        assert record.plan is not None
        assert record.plan["drawn_s"] == record.planned_latency_s
        assert record.plan["expected_band_hz"] <= 2e5 * (1 + 1e-8)
        for entry in record.clients:
            sketched += entry.rank != 4
            assert entry.inclusion is not None
            assert 0 < entry.inclusion <= 1
            least = min(least, entry.inclusion)
            if entry.share is not None:
                assert entry.share == pytest.approx(1 / count / entry.inclusion, rel=0.2)
    assert not planned or (sketched and least < 1)
    Experiment.load(None, settings(*changes, "rounds=1")).run(tmp_path / "short")
    Experiment.resume(tmp_path / "short", more_rounds=1)
    assert fingerprint(tmp_path / "short") == fingerprint(tmp_path / "whole")


def drawn_mean(
    updates: list[Update], probability: np.ndarray, rounds: int, own: bool
) -> tuple[Tensor, Tensor]:
    """Mean and variance over draws of the aggregated change; `own`: with shares a / q."""
    state = {name: torch.zeros_like(x) for name, x in updates[0].change.items()}
    weights = np.array([update.weight for update in updates])
    total: Any = 0.0
    square: Any = 0.0
    for index in range(rounds):
        cohort, inclusion = independent_draw(probability, 3, index)
        chosen = [updates[client] for client in cohort]
        if own:
            chances = dict(zip(cohort.tolist(), inclusion.tolist(), strict=True))
            chosen = weighed(Unbiased(), chosen, Occasion(index, weights, {}, chances))
        merged = FactorMean().aggregate(state, chosen)
        vector = torch.cat([x.flatten() for x in merged.values()]).double()
        total, square = total + vector, square + vector.square()
    mean: Tensor = total / rounds
    return mean, square / rounds - mean.square()


def test_shares_are_unbiased_and_the_mean_of_those_present_is_not() -> None:
    probability = np.array([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    updates = [Update(n, 1.0 + n % 3, random_factors(n)) for n in range(8)]
    whole = FactorMean().aggregate(
        {name: torch.zeros_like(x) for name, x in updates[0].change.items()}, updates
    )
    target = torch.cat([x.flatten() for x in whole.values()]).double()
    rounds = 3000
    mean, variance = drawn_mean(updates, probability, rounds, own=True)
    error = float((mean - target).norm())
    noise = float((variance / rounds).sum().sqrt())
    assert error < 4 * noise
    shares = np.array([update.weight for update in updates])
    shares = shares / shares.sum()
    squares = np.array(
        [sum(float(x.square().sum()) for x in update.change.values()) for update in updates]
    )
    # The empty draw, which is drawn again, has a probability of 1.3e-3 here.
    theory = float((shares**2 * (1 / probability - 1) * squares).sum())
    assert float(variance.sum()) == pytest.approx(theory, rel=0.08)
    biased, spread = drawn_mean(updates, probability, rounds, own=False)
    assert float((biased - target).norm()) > 10 * float((spread / rounds).sum().sqrt())


def test_an_empty_draw_is_drawn_again_with_the_probability_that_this_makes() -> None:
    probability = np.array([0.1, 0.05, 0.0])
    counts = np.zeros(3)
    rounds = 4000
    known: dict[int, float] = {}
    for index in range(rounds):
        cohort, inclusion = independent_draw(probability, 1, index)
        counts[cohort] += 1
        known.update(zip(cohort.tolist(), inclusion.tolist(), strict=True))
    expected = probability / (1 - 0.9 * 0.95)
    assert counts[2] == 0
    for client in (0, 1):
        assert known[client] == pytest.approx(expected[client])
        error = 5 * np.sqrt(rounds * expected[client] * (1 - expected[client]))
        assert abs(counts[client] - rounds * expected[client]) < error
    with pytest.raises(ValueError, match="at least one client"):
        independent_draw(np.zeros(3), 1, 0)


def test_drawing_does_not_depend_on_clients_added_at_the_end() -> None:
    few, _ = independent_draw(np.full(5, 0.6), 9, 4)
    more, _ = independent_draw(np.full(9, 0.6), 9, 4)
    assert more[more < 5].tolist() == few.tolist()


def plan_of(rank: int, sketch: int | None, client: int = 0) -> ClientPlan:
    return ClientPlan(client, 1e6, 0.1, rank, sketch=sketch)


def test_both_ends_draw_the_same_ranks_and_all_alike() -> None:
    shapes = shapes_of(random_factors(0))
    counts = {name: torch.zeros(shape[0]) for name, shape in shapes.items() if "lora_A" in name}
    for seed in range(600):
        for name, ranks in sketched_ranks(shapes, plan_of(2, seed)).items():
            counts[name][ranks] += 1
    for name, found in counts.items():
        share = min(2 / shapes[name][0], 1.0)
        assert (
            float((found / 600 - share).abs().max()) < 5 * (share * (1 - share) / 600) ** 0.5 + 1e-9
        )
    assert sketched_ranks(shapes, plan_of(2, None))["x.lora_A.weight"].tolist() == [0, 1]


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("rank", [1, 3, 4])
def test_no_bits_for_indices_and_a_mean_that_is_the_change(dtype: str, rank: int) -> None:
    change = random_factors(3)
    codec = SketchCodec(dtype).in_round(change)
    bits = FirstRanksCodec(dtype).payload_bits(shapes_of(change), plan_of(rank, None))
    total: Mapping[str, Any] = dict.fromkeys(change, 0.0)
    for seed in range(400):
        plan = plan_of(rank, seed)
        decoded = check_codec(codec, change, plan, idempotent=False)
        assert codec.payload_bits(shapes_of(change), plan) == bits
        mask = codec.trained(plan)
        assert mask is not None
        assert not any(decoded[name][~mask[name]].any() for name in change)
        total = {name: total[name] + decoded[name] for name in change}
    for name, x in change.items():
        mean = total[name] / 400
        whole = min(x.shape)
        spread = max(whole / rank - 1, 0.0) ** 0.5
        assert float((mean - x).abs().max()) <= (5.5 * spread / 20 + 2e-3) * float(x.abs().max())


def test_all_ranks_are_the_dense_codecs_bytes() -> None:
    change = random_factors(3)
    plan = plan_of(9, 5)
    codec = SketchCodec().in_round(change)
    assert codec.encode(change, plan) == DenseCodec().encode(change, plan)
    decoded = codec.decode(codec.encode(change, plan), shapes_of(change), plan)
    assert all(torch.equal(decoded[name], change[name]) for name in change)
    updates = [Update(n, 1.0 + n, random_factors(n)) for n in range(3)]
    merged = check_aggregator(SketchMean(), change, updates)
    plain = FactorMean().aggregate(change, updates)
    assert all(torch.equal(merged[name], plain[name]) for name in plain)


def one_step(world: World, start: Mapping[str, Tensor], plan: ClientPlan, tuner: Any) -> Any:
    side = world.side
    context = replace(
        side._context(_task(plan)),
        training=replace(
            side.training,
            optimizer="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,
            keep_optimizer=False,
        ),
    )
    return tuner.tune(dict(start), plan, context)


def _task(plan: ClientPlan) -> Any:
    from airtune.federated.backends.backend import ClientTask

    return ClientTask(0, plan.client, plan, b"")


@pytest.fixture(scope="module")
def warm() -> tuple[World, dict[str, Tensor]]:
    """A world of rank 2, and an adapter whose product is not 0."""
    world = world_of("method=sampled_lora", "sampled_lora.least_rank=1", "adapter.rank=2")
    source = torch.Generator().manual_seed(0)
    start = {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=source)
        for name, tensor in world.untrained.items()
    }
    return world, start


def test_the_mean_over_all_sketches_of_a_step_is_the_whole_step(
    warm: tuple[World, dict[str, Tensor]],
) -> None:
    """Exact: a sketched client starts from the server's model, and one SGD step is linear."""
    world, start = warm
    shapes = shapes_of(start)
    whole = one_step(world, start, plan_of(2, None), FullTuner())
    names = [name for name in shapes if "lora_A" in name]
    found: dict[tuple[int, ...], Any] = {}
    for seed in range(60):
        plan = plan_of(1, seed)
        first = sketched_ranks(shapes, plan)[names[0]]
        found.setdefault(tuple(first.tolist()), (plan, one_step(world, start, plan, SketchTuner())))
        if len(found) == 2:
            break
    assert set(found) == set(combinations(range(2), 1))
    for plan, result in found.values():
        assert result.losses == pytest.approx(whole.losses, rel=1e-5)
        mask = sketch_mask(shapes, plan)
        for name, tensor in result.state.items():
            kept = mask[name]
            assert torch.equal(tensor[~kept], start[name][~kept])
            step = (whole.state[name] - start[name])[kept]
            torch.testing.assert_close((tensor - start[name])[kept], step, rtol=2e-3, atol=2e-6)


def test_what_a_sketched_client_computes_is_charged(
    warm: tuple[World, dict[str, Tensor]],
) -> None:
    world, start = warm
    world.model.get_base_model().set_attn_implementation("eager")
    costs = world.context.costs.in_round(0)
    for plan in (plan_of(1, 4), plan_of(2, None)):
        with FlopCounterMode(display=False) as counter:
            SketchTuner().tune(dict(start), plan, world.side._context(_task(plan)))
        assert costs.compute_flops(plan) == pytest.approx(counter.get_total_flops(), rel=1e-12)
    assert costs.memory_bytes(plan_of(1, 4)) > 0
    before = {name: x.clone() for name, x in world.model.get_base_model().named_parameters()}
    one_step(world, start, plan_of(1, 4), SketchTuner())
    for name, x in world.model.get_base_model().named_parameters():
        if "lora_" not in name:
            assert torch.equal(x, before[name])


def test_variance_terms_and_choices() -> None:
    weights, norms = np.array([0.5, 0.3, 0.2]), np.array([1.0, 2.0, 0.5])
    variance, floor = variance_terms(weights, norms, (8, 4), 0.25)
    # An independent mean square: vectors of these norms with one cosine between any two.
    gram = np.outer(norms, norms) * (0.25 + 0.75 * np.eye(3))
    assert floor + variance[:, 0].sum() == pytest.approx(weights @ gram @ weights)
    np.testing.assert_allclose(variance[:, 1], 2 * variance[:, 0])
    assert rank_choices(None, 8) == (8,)
    assert rank_choices(1, 8) == (8, 4, 2, 1)
    assert rank_choices(3, 8) == (8, 4, 3)
    assert rank_choices(8, 8) == (8,)


def test_norms_are_learned_and_unknown_ones_are_the_mean() -> None:
    state: Mapping[str, Any] = {"norms": {}, "alignment": None}
    np.testing.assert_array_equal(norms_of(state, [0, 1]), 1.0)
    state = learned(state, {"measured": {"update_norm": {"0": 3.0, "1": 1.0}, "alignment": 0.4}})
    state = learned(state, {"measured": {"update_norm": {"0": 1.0}, "alignment": None}})
    np.testing.assert_allclose(norms_of(state, [0, 1, 2]), np.array([2.0, 1.0, 1.5]) / 1.5)
    assert state["alignment"] == 0.4
    assert json.loads(json.dumps(state)) == state
    assert learned(state, {}) == state


class Lottery(Sampler):
    """Client 0 always, the others half of the time."""

    def draw(self, view: PlanningView, state: Mapping[str, Any]) -> Draw:
        probability = np.where(view.cohort == 0, 1.0, 0.5)
        cohort, inclusion = independent_draw(probability, 5, view.round_index)
        return Draw(cohort, inclusion)


def test_a_user_defined_planner_may_draw_too(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "lots.py").write_text(
        "from airtune.federated.bandwidth_planner import BandwidthPlanner\n"
        "from airtune.federated.method import Planner\n"
        "from tests.methods.test_sampled_lora import Lottery\n"
        "class Lots(Lottery, Planner):\n"
        "    def plan(self, view, state):\n"
        "        loads = [view.full_plan(i) for i in range(len(view.cohort))]\n"
        "        return BandwidthPlanner().divided(view, loads)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = Experiment.load(None, settings("planner=lots:Lots", "rounds=5")).run(tmp_path / "run")
    clients = [entry for record in run.records for entry in record.clients]
    assert {entry.inclusion for entry in clients if entry.client == 0} == {1.0}
    assert {entry.inclusion for entry in clients if entry.client != 0} == {0.5}
    assert len(clients) < 15
    for entry in clients:
        assert entry.share == pytest.approx(1 / 3 / (entry.inclusion or 0), rel=0.2)


def test_draws_are_checked() -> None:
    for cohort, inclusion in (
        ([], []),
        ([1, 0], [0.5, 0.5]),
        ([0, 1], [0.5, 0.0]),
        ([0, 1], [0.5, 1.5]),
        ([0, 1], [0.5]),
    ):
        with pytest.raises(ValueError, match="a draw needs"):
            Draw(np.array(cohort, dtype=np.int64), np.array(inclusion))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("cohort.size=2", "cohort.size is 2"),
        ("deadline_s=5", "deadline_s is 5"),
        ("sampled_lora.least_rank=5", "sampled_lora.least_rank is 5"),
        ("aggregator=zero-padded", "aggregator is zero-padded"),
        ("aggregator=overlap-mean", "aggregator is overlap-mean"),
        ("tuner=first-ranks", "tuner is first-ranks"),
        ("dtype=bf16", "dtype is bf16"),
    ],
)
def test_refused_by_name(change: str, words: str, tmp_path: Path) -> None:
    changes = ["method=sampled_lora", "sampled_lora.least_rank=1", "adapter.rank=4", change]
    with pytest.raises(InputError, match=words):
        Experiment.load(None, settings(*changes)).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_shares_that_would_be_ignored_are_refused(tmp_path: Path) -> None:
    changes = ("method=sampled_lora", "aggregator=zero-padded")
    with pytest.raises(InputError, match="one that uses shares"):
        Experiment.load(None, settings(*changes)).run(tmp_path / "run")
    full = quick("method=sampled_lora", "adapter.kind=full")[1::2]
    with pytest.raises(InputError, match=r"adapter\.kind is full"):
        Experiment.load(None, full).run(tmp_path / "run")


def test_a_validation_is_refused() -> None:
    with pytest.raises(InputError, match="method is sampled_lora"):
        refuse_experiment(read_config(None, ["method=sampled_lora"]))


def test_ranks_without_effect_are_refused() -> None:
    with pytest.raises(InputError, match=r"sampled_lora\.least_rank is 2"):
        Experiment.load(
            None,
            settings(
                "method=sampled_lora", "sampled_lora.least_rank=2", "sampled_lora.participation=all"
            ),
        )


def test_the_planning_problem() -> None:
    mapping = read_yaml_mapping(ROOT / "examples" / "sampled_lora.yaml", "problem")
    problem = read(mapping)
    solution = SOLVERS["planned"](problem)
    found = answer(problem, solution)
    assert found["expected_time_s"] >= found["lower_bound_s"]
    assert {row["rank"] for row in found["clients"]} <= {8, 4, 2}
    assert json.loads(json.dumps(found)) == found
    with pytest.raises(InputError, match="least_rank is 9"):
        read({**mapping, "least_rank": 9})
