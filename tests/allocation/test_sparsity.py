"""TSFA's round: limits with known answers, invariances, extremes, refusals, the plain solvers."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airtune.allocation.solve import BrokenPlanError, Solution, Status, checked
from airtune.allocation.sparsity.problem import (
    SparsityPlan,
    SparsityProblem,
    check_plan,
    dropped_energy,
)
from airtune.allocation.sparsity.solvers import dense, exact, fixed_sparsity
from airtune.errors import InputError
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import FixedEfficiencyLinks, ShannonLinks, mixed_links


def cell(seed: int = 0, clients: int = 5, ranks: int = 6, **changes: Any) -> SparsityProblem:
    """A cell whose best plan keeps some ranks of most clients."""
    draw = np.random.default_rng(seed)
    energy = draw.random((clients, ranks)) * 0.8 ** np.arange(ranks)
    values: dict[str, Any] = {
        "links": ShannonLinks(10 ** draw.uniform(5.5, 8, clients)),
        "bandwidth_hz": 1e5 * clients,
        "compute_delay_s": draw.random(clients),
        "rank_energy": energy / energy.sum(axis=1, keepdims=True),
        "rank_payload_bits": draw.uniform(0.5, 1.5, clients) * 3e6 / ranks,
        "latency_target_s": 2.0,
        "v": 10.0,
        "virtual_queue": 1.5,
        "weight": draw.random(clients) + 0.2,
    }
    return SparsityProblem(**{**values, **changes})


def solved(problem: SparsityProblem) -> tuple[float, SparsityPlan]:
    solution = exact(problem)
    assert solution.objective is not None
    assert solution.plan is not None
    assert solution.gap is not None
    assert solution.gap <= 1e-6
    assert solution.status is Status.OPTIMAL
    return solution.objective, solution.plan


def least_latency(problem: SparsityProblem) -> float:
    return solved(replace(problem, v=0.0))[1].latency_s


@pytest.mark.parametrize("seed", range(10))
def test_fixed_efficiency_and_equal_delays_have_a_closed_form(seed: int) -> None:
    """Keep rank i iff `v w energy > Q c / (eta B)`; bandwidth in proportion to the bits / eta."""
    draw = np.random.default_rng(seed)
    clients, ranks, band, delay = 6, 8, 1e6, 0.4
    eta, bits = draw.uniform(0.5, 6, clients), draw.uniform(1e4, 3e5, clients)
    energy, weight = draw.random((clients, ranks)), draw.random(clients) + 0.1
    weight /= weight.sum()
    v, queue = 10 ** draw.uniform(-0.5, 1.0), draw.uniform(0.1, 5)
    keep = v * weight[:, None] * energy > queue * (bits / (eta * band))[:, None]
    keep[np.arange(clients), energy.argmax(axis=1)] = True
    airtime = keep.sum(axis=1) * bits / eta
    problem = SparsityProblem(
        FixedEfficiencyLinks(eta),
        band,
        np.full(1, delay),
        energy,
        bits,
        50.0,
        v,
        queue,
        weight=weight,
    )
    objective, plan = solved(problem)
    assert (plan.kept == keep).all()
    assert plan.bandwidth_hz == pytest.approx(band * airtime / airtime.sum())
    assert plan.latency_s == pytest.approx(delay + airtime.sum() / band)
    lost = v * (weight[:, None] * energy)[~keep].sum()
    assert objective == pytest.approx(lost + queue * (delay + airtime.sum() / band))


def test_without_a_queue_everything_is_sent_as_fast_as_possible() -> None:
    problem = cell(virtual_queue=0.0)
    problem.rank_energy[2, 3] = 0.0
    objective, plan = solved(problem)
    assert objective == 0.0
    assert (plan.kept == (problem.rank_energy > 0)).all()
    almost = solved(replace(problem, virtual_queue=1e-9))[1]
    assert (almost.kept == plan.kept).all()
    assert plan.latency_s == pytest.approx(almost.latency_s)


def test_without_v_or_energy_the_least_is_sent() -> None:
    problem = cell()
    for changed in (
        replace(problem, v=0.0),
        replace(problem, rank_energy=0.0 * problem.rank_energy),
        replace(problem, v=0.0, virtual_queue=0.0),
    ):
        plan = solved(changed)[1]
        assert plan.kept.sum(axis=1).tolist() == [1] * 5
        assert plan.latency_s == pytest.approx(least_latency(problem))


def test_a_client_without_weight_sends_one_rank() -> None:
    plan = solved(cell(weight=np.array([1.0, 1.0, 0.0, 1.0, 1.0]), v=1e6))[1]
    assert plan.kept.sum(axis=1).tolist() == [6, 6, 1, 6, 6]


def test_the_queue_trades_energy_for_time() -> None:
    latencies, losses = [], []
    for queue in (0.01, 0.3, 1.0, 3.0, 10.0, 100.0):
        problem = cell(virtual_queue=queue)
        plan = solved(problem)[1]
        latencies.append(plan.latency_s)
        losses.append(problem.weight @ dropped_energy(problem, plan.kept))
    assert latencies == sorted(latencies, reverse=True)
    assert losses == sorted(losses)
    assert latencies[0] > 1.5 * latencies[-1]


@settings(max_examples=25)
@given(st.integers(0, 500), st.sampled_from([1e-3, 0.37, 60.0, 1e6]))
def test_time_and_bits_scale_together(seed: int, factor: float) -> None:
    problem = cell(seed)
    scaled = replace(
        problem,
        compute_delay_s=problem.compute_delay_s * factor,
        rank_payload_bits=problem.rank_payload_bits * factor,
        latency_target_s=problem.latency_target_s * factor,
        virtual_queue=problem.virtual_queue / factor,
    )
    (one, plan), (other, scaled_plan) = solved(problem), solved(scaled)
    assert other == pytest.approx(one, rel=1e-8)
    if (plan.kept == scaled_plan.kept).all():
        assert scaled_plan.latency_s == pytest.approx(plan.latency_s * factor)
        assert scaled_plan.bandwidth_hz == pytest.approx(plan.bandwidth_hz, rel=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 500), st.sampled_from([1e-9, 1e-3, 7.0, 1e9]))
def test_energy_and_v_scale_against_each_other(seed: int, factor: float) -> None:
    problem = cell(seed)
    scaled = replace(problem, rank_energy=problem.rank_energy * factor, v=problem.v / factor)
    assert solved(scaled)[0] == pytest.approx(solved(problem)[0], rel=1e-8)


@settings(max_examples=25)
@given(st.integers(0, 500))
def test_a_permutation_of_clients_permutes_the_plan(seed: int) -> None:
    problem = cell(seed)
    order = np.random.default_rng(seed).permutation(5)
    permuted = replace(
        problem,
        links=problem.links.select(order),
        compute_delay_s=problem.compute_delay_s[order],
        rank_energy=problem.rank_energy[order],
        rank_payload_bits=problem.rank_payload_bits[order],
        weight=problem.weight[order],
    )
    (one, plan), (other, permuted_plan) = solved(problem), solved(permuted)
    assert other == pytest.approx(one, rel=1e-9)
    assert (permuted_plan.kept == plan.kept[order]).all()
    assert permuted_plan.bandwidth_hz == pytest.approx(plan.bandwidth_hz[order], rel=1e-6)


def test_equal_clients_get_equal_shares_where_the_plan_is_symmetric() -> None:
    one = cell(3, clients=1)
    links = ShannonLinks(np.repeat(one.links.limit_bps() * np.log(2), 8))
    same: dict[str, Any] = {
        name: np.repeat(getattr(one, name), 8, axis=0) for name in ("rank_energy", "weight")
    }
    problem = replace(
        one,
        links=links,
        bandwidth_hz=8e5,
        **same,
        compute_delay_s=np.ones(8),
        rank_payload_bits=np.repeat(one.rank_payload_bits, 8, axis=0),
        fixed_payload_bits=np.zeros(8),
        v=1e4,
    )
    plan = solved(problem)[1]
    assert plan.kept.all()
    assert plan.bandwidth_hz == pytest.approx(1e5)


@pytest.mark.parametrize("copies", [2, 5, 40])
def test_duplicates_of_every_client_with_as_much_more_band_cost_the_same(copies: int) -> None:
    problem = cell(2, clients=3)
    who = np.tile(np.arange(3), copies)
    columns = ("compute_delay_s", "rank_energy", "rank_payload_bits", "weight")
    several = replace(
        problem,
        links=problem.links.select(who),
        bandwidth_hz=problem.bandwidth_hz * copies,
        fixed_payload_bits=np.zeros(len(who)),
        **{name: getattr(problem, name)[who] for name in columns},
    )
    # Copies may differ by a rank, which the single cell cannot.
    assert solved(several)[0] <= solved(problem)[0] * (1 + 1e-9)
    assert solved(several)[0] >= solved(problem)[0] * 0.98


def test_one_client_has_the_whole_band() -> None:
    problem = cell(1, clients=1)
    plan = solved(problem)[1]
    assert plan.bandwidth_hz.tolist() == [problem.bandwidth_hz]


def test_nothing_to_send_takes_no_time_and_no_bandwidth() -> None:
    problem = cell(rank_payload_bits=np.zeros(5))
    plan = solved(problem)[1]
    assert plan.kept.all()
    assert plan.latency_s == problem.compute_delay_s.max()
    assert plan.bandwidth_hz.tolist() == [0.0] * 5


def test_a_client_without_signal_is_in_outage() -> None:
    cn0 = np.array([1e7, 0.0, 1e6, 1e-30, 1e30])
    problem = cell(links=ShannonLinks(cn0))
    _, plan = solved(problem)
    assert plan.skipped.tolist() == [False, True, False, True, False]
    assert plan.bandwidth_hz[[1, 3]].tolist() == [0.0, 0.0]
    lost = dropped_energy(problem, plan.kept)
    assert lost[[1, 3]] == pytest.approx(1.0)


def test_the_outage_limit_decides_who_is_skipped() -> None:
    problem = cell(4, rank_payload_bits=np.full(5, 1e5), compute_delay_s=np.zeros(5))
    alone = 1e5 / problem.links.rate(np.full(5, problem.bandwidth_hz))
    limit = float(np.sort(alone)[-1])
    assert not replace(problem, outage_latency_s=limit).in_outage().any()
    strict = replace(problem, outage_latency_s=limit * (1 - 1e-6))
    assert strict.in_outage().tolist() == (alone == limit).tolist()
    assert solved(strict)[1].skipped.sum() == 1
    assert replace(problem, latency_target_s=limit / 5.0 * (1 + 1e-6)).in_outage().sum() == 0
    assert replace(problem, latency_target_s=limit / 5.0 * (1 - 1e-6)).in_outage().sum() == 1


def test_only_outages_is_infeasible_and_says_who() -> None:
    unreachable = exact(cell(links=ShannonLinks(np.zeros(5))))
    assert unreachable.status is Status.INFEASIBLE
    assert unreachable.plan is None
    assert "All 5 clients are in outage" in unreachable.message
    single = exact(cell(clients=1, links=ShannonLinks(np.zeros(1)), names=("phone",)))
    assert "client phone is in outage" in single.message
    late = exact(cell(outage_latency_s=0.5, compute_delay_s=np.full(5, 0.6)))
    assert late.status is Status.INFEASIBLE


def test_without_an_outage_rule_a_dead_link_is_infeasible() -> None:
    dead = ShannonLinks(np.array([1e7, 0.0, 1e6, 1e6, 1e6]))
    answer = exact(cell(links=dead, outage_latency_s=np.inf, names=tuple("abcde")))
    assert answer.status is Status.INFEASIBLE
    assert answer.message.startswith("client b has ranks to send but no signal")


@settings(max_examples=60)
@given(st.data())
def test_extreme_numbers_give_checked_plans_with_bounds(data: st.DataObject) -> None:
    clients = data.draw(st.integers(1, 4))
    power = st.floats(-30, 30)
    column = st.lists(power, min_size=clients, max_size=clients)

    def ten_to(strategy: st.SearchStrategy[Any]) -> np.ndarray:
        return 10.0 ** np.asarray(data.draw(strategy))

    problem = SparsityProblem(
        ShannonLinks(ten_to(column)),
        float(ten_to(st.floats(-3, 12))),
        ten_to(st.lists(st.floats(-9, 5), min_size=clients, max_size=clients)),
        ten_to(st.lists(st.floats(-20, 20), min_size=3, max_size=3)) * np.ones((clients, 1)),
        ten_to(st.lists(st.floats(-3, 9), min_size=clients, max_size=clients)),
        float(ten_to(st.floats(-6, 6))),
        float(ten_to(power)),
        float(ten_to(st.floats(-15, 15))),
        outage_latency_s=data.draw(st.sampled_from([np.nan, np.inf])),
    )
    solution = exact(problem)
    if solution.plan is None:
        assert problem.in_outage().all()
        return
    assert solution.check is not None
    assert solution.check.passed
    assert solution.gap is not None
    assert solution.gap <= 1e-6


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"bandwidth_hz": 0.0}, "bandwidth_hz"),
    ({"bandwidth_hz": np.nan}, "bandwidth_hz"),
    ({"latency_target_s": 0.0}, "latency_target_s"),
    ({"v": -1.0}, "v is"),
    ({"v": np.nan}, "v is"),
    ({"virtual_queue": -1e-9}, "virtual_queue"),
    ({"virtual_queue": np.inf}, "virtual_queue"),
    ({"outage_latency_s": 0.0}, "outage_latency_s"),
    ({"weight": np.zeros(5)}, "weight"),
    ({"weight": np.array([1.0, -1.0, 1.0, 1.0, 1.0])}, "weight of client 1"),
    ({"compute_delay_s": np.array([0.1, 0.1, np.nan, 0.1, 0.1])}, "compute_delay_s of client 2"),
    ({"fixed_payload_bits": np.full(5, -1.0)}, "fixed_payload_bits of client 0"),
    ({"rank_payload_bits": np.full(5, np.inf)}, "rank_payload_bits of client 0"),
    ({"rank_energy": np.full((5, 2), -1.0)}, "rank_energy of client 0"),
    ({"rank_energy": np.full((5, 2), np.inf)}, "rank_energy of client 0"),
    ({"rank_energy": np.full((5, 2), np.nan)}, "rank_energy of client 0"),
    ({"rank_energy": np.array([[1.0, np.nan, 1.0]] * 5)}, "rank_energy of client 0"),
    ({"rank_energy": np.ones((4, 2))}, "rank_energy, rank_payload_bits"),
    ({"rank_payload_bits": np.ones((5, 3))}, "rank_energy, rank_payload_bits"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_refuses(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        cell(**changes)


@pytest.mark.parametrize("seed", range(8))
def test_simple_solvers_are_feasible_and_never_better(seed: int) -> None:
    problem = cell(seed)
    best, _ = solved(problem)
    for solution in (
        dense(problem),
        fixed_sparsity(problem, 0.0),
        fixed_sparsity(problem, 0.5),
        fixed_sparsity(problem, 1.0),
    ):
        assert solution.objective is not None
        assert solution.check is not None
        assert solution.check.passed
        assert solution.lower_bound == pytest.approx(best, rel=1e-8)
        assert solution.objective >= best * (1 - 1e-9)
    assert dense(problem, prove=False).lower_bound is None


def test_fixed_sparsity_keeps_the_strongest_and_at_least_one() -> None:
    energy = np.array([[1.0, 4.0, 3.0, 2.0], [5.0, np.nan, np.nan, np.nan]])
    problem = cell(clients=2, ranks=4, rank_energy=energy)
    half = fixed_sparsity(problem, 0.5).plan
    none = fixed_sparsity(problem, 1.0).plan
    full = dense(problem).plan
    assert half is not None
    assert none is not None
    assert full is not None
    assert half.kept_ranks() == [[1, 2], [0]]
    assert none.kept_ranks() == [[1], [0]]
    assert full.kept_ranks() == [[0, 1, 2, 3], [0]]
    with pytest.raises(InputError, match="sparsity"):
        fixed_sparsity(problem, 1.5)


def test_the_check_sees_every_broken_promise() -> None:
    problem = cell(links=ShannonLinks(np.array([1e7, 1e7, 1e6, 1e7, 0.0])))
    objective, plan = solved(problem)
    assert check_plan(problem, plan, objective).passed
    more = plan.kept.copy()
    more[0] = True
    outage = plan.kept.copy()
    outage[4] = True
    broken = [
        (replace(plan, bandwidth_hz=plan.bandwidth_hz * 1.001), "bandwidth"),
        (replace(plan, bandwidth_hz=plan.bandwidth_hz - 1e4), "bandwidth of each client"),
        (replace(plan, latency_s=plan.latency_s * 0.999), "latency"),
        (replace(plan, kept=more), "latency"),
        (replace(plan, kept=plan.kept & False), "clients skipped without outage"),
        (replace(plan, kept=outage), "clients in outage that are not skipped"),
    ]
    for changed, constraint in broken:
        check = check_plan(problem, changed, objective)
        assert not check.passed
        assert check.excess[constraint] > check.tolerance
    assert check_plan(problem, plan, objective * 0.999).worst[0] == "objective"
    wrong = Solution(Status.FEASIBLE, "", "test", broken[0][0], objective)
    with pytest.raises(BrokenPlanError):
        checked(wrong, lambda found: check_plan(problem, found, objective))


def test_a_ragged_client_may_not_keep_what_it_does_not_have() -> None:
    energy = np.array([[1.0, 0.5], [1.0, np.nan]])
    problem = cell(clients=2, ranks=2, rank_energy=energy)
    objective, plan = solved(problem)
    strange = replace(plan, kept=np.ones((2, 2), dtype=bool))
    check = check_plan(problem, strange, objective)
    assert check.excess["ranks that a client does not have"] > 0


@pytest.mark.parametrize("kind", ["mixed", "table"])
def test_other_links(kind: str) -> None:
    cn0 = np.array([1e7, 3e6, 1e6, 2e7, 5e5])
    links: Any = CqiLinks(cn0)
    if kind == "mixed":
        fixed = np.array([np.nan, 2.0, np.nan, 0.5, np.nan])
        links = mixed_links(np.where(np.isnan(fixed), cn0, np.nan), fixed)
    solution = exact(cell(links=links))
    assert solution.check is not None
    assert solution.check.passed
    assert solution.gap is not None
    assert solution.gap <= (0.2 if kind == "table" else 1e-6)


def test_every_field_of_the_problem_is_documented() -> None:
    for field in fields(SparsityProblem):
        assert f"{field.name}:" in (SparsityProblem.__doc__ or ""), field.name
