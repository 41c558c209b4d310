"""Many rounds with a virtual queue: the recursion, the target, and what cannot be reached."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from airtune.allocation.solve import Solution
from airtune.allocation.sparsity.lyapunov import (
    ChannelSource,
    Rounds,
    least_mean_latency_s,
    least_reachable_target_s,
    next_queue,
    run_rounds,
)
from airtune.allocation.sparsity.problem import SparsityPlan, SparsityProblem
from airtune.allocation.sparsity.solvers import dense, exact
from airtune.errors import InfeasibleError
from airtune.wireless.attenuation import BlockFading
from airtune.wireless.rate import Links, ShannonLinks

CLIENTS, RANKS = 6, 6


def rayleigh(seed: int) -> ChannelSource:
    mean = 10 ** np.random.default_rng(seed).uniform(6.5, 7.5, CLIENTS)
    fading = BlockFading(seed, CLIENTS, correlation=0.0)
    return lambda index: ShannonLinks(mean * fading.power_gain(index))


def template(channel: ChannelSource, target_s: float, v: float = 10.0) -> SparsityProblem:
    """Energies sum to 1 per client; the delays are unequal and shorter than the uploads."""
    draw = np.random.default_rng(1)
    energy = draw.random((CLIENTS, RANKS)) * 0.6 ** np.arange(RANKS)
    return SparsityProblem(
        channel(0),
        bandwidth_hz=6e5,
        compute_delay_s=draw.random(CLIENTS) * 0.2,
        rank_energy=energy / energy.sum(axis=1, keepdims=True),
        rank_payload_bits=np.full(CLIENTS, 1e5),
        latency_target_s=target_s,
        v=v,
    )


def quick(problem: SparsityProblem) -> Solution[SparsityPlan]:
    return exact(problem, gap=1e-3)


def simulate(rounds: int, target_s: float, v: float, seed: int = 3) -> Rounds:
    channel = rayleigh(seed)
    return run_rounds(template(channel, target_s, v), rounds, channel, quick)


def test_the_queue_grows_by_the_excess_and_is_never_negative() -> None:
    assert next_queue(0.4, 2.0, 1.5) == pytest.approx(0.9)
    assert next_queue(0.4, 1.0, 1.5) == 0.0


def test_the_rounds_follow_the_recursion() -> None:
    table = simulate(40, 1.0, 10.0)
    queue = 0.0
    for latency, held in zip(table.latency_s, table.virtual_queue, strict=True):
        assert held == pytest.approx(queue, abs=1e-12)
        queue = max(queue + latency - 1.0, 0.0)
    assert table.final_queue == pytest.approx(queue)
    assert table.mean_latency_s <= 1.0 + table.overshoot_limit_s
    assert table.overshoot_limit_s == pytest.approx(queue / 40)
    assert len(table) == 40


def test_a_reachable_target_is_held_and_a_larger_v_keeps_more() -> None:
    small, large = simulate(250, 1.2, 0.5), simulate(250, 1.2, 10.0)
    assert small.mean_latency_s <= 1.2 * 1.01
    assert large.mean_latency_s <= 1.2 + large.overshoot_limit_s
    assert large.dropped_energy.mean() < small.dropped_energy.mean()
    assert small.dropped_energy.mean() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("v", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("over_least", [1.1, 1.5, 2.5])
def test_five_thousand_rounds_of_rayleigh_fading(over_least: float, v: float) -> None:
    """Times in units of the target: 1 % above it at most, a larger v within Q_T / T."""
    rounds, channel = 5000, rayleigh(7)
    target = over_least * least_mean_latency_s(template(channel, 1.0), rounds, channel)
    # The objective is v x energy + seconds x seconds.
    problem = template(channel, target, v * target**2)
    assert least_mean_latency_s(problem, rounds, channel) <= target
    table = run_rounds(problem, rounds, channel, quick)
    assert table.mean_latency_s <= target + table.overshoot_limit_s * (1 + 1e-9)
    if v <= 10.0:
        assert table.mean_latency_s <= 1.01 * target
    assert table.outage_share < 0.02


def test_no_plan_is_faster_than_the_least_mean_latency() -> None:
    channel = rayleigh(4)
    problem = template(channel, 1.0)
    least = least_mean_latency_s(problem, 30, channel)
    fastest = run_rounds(replace(problem, v=0.0), 30, channel, quick)
    assert fastest.mean_latency_s == pytest.approx(least, rel=1e-9)
    everything = run_rounds(problem, 30, channel, lambda one: dense(one, prove=False))
    assert everything.mean_latency_s > 2.0 * least


def test_an_unreachable_target_is_found_by_bisection_where_the_outage_limit_follows_it() -> None:
    rounds, channel = 60, rayleigh(5)
    problem = template(channel, 0.02)
    least = least_mean_latency_s(problem, rounds, channel)
    assert least > 0.02
    found = least_reachable_target_s(problem, rounds, channel, least)
    assert found is not None

    def reachable(target: float) -> bool:
        moved = replace(problem, latency_target_s=target)
        return least_mean_latency_s(moved, rounds, channel) <= target

    assert reachable(found)
    assert not reachable(found * 0.99)
    table = run_rounds(problem, rounds, channel, quick)
    assert table.mean_latency_s >= least
    assert table.final_queue == pytest.approx(float((table.latency_s - 0.02).sum()))


def test_with_an_outage_limit_of_its_own_it_is_the_least_mean_latency() -> None:
    channel = rayleigh(6)
    problem = replace(template(channel, 0.05), outage_latency_s=2.0)
    least = least_mean_latency_s(problem, 20, channel)
    assert least_reachable_target_s(problem, 20, channel, least) == least


def source(*links: Links) -> Callable[[int], Links]:
    return lambda index: links[index % len(links)]


def test_rounds_without_anybody_take_the_outage_limit_and_are_counted() -> None:
    good, dead = ShannonLinks(np.full(CLIENTS, 1e7)), ShannonLinks(np.zeros(CLIENTS))
    half = ShannonLinks(np.array([1e7, 1e7, 1e7, 0.0, 0.0, 0.0]))
    channel = source(good, dead, half)
    table = run_rounds(template(channel, 1.0), 6, channel, quick)
    assert table.outages.tolist() == [0, 6, 3, 0, 6, 3]
    assert table.empty_rounds == 2
    assert table.outage_share == pytest.approx(0.5)
    assert table.latency_s[1] == 5.0
    assert table.virtual_queue[2] == pytest.approx(table.virtual_queue[1] + 4.0)
    assert table.dropped_energy[1] == pytest.approx(1.0)
    assert table.ranks_sent[1] == 0


def test_a_dead_link_without_an_outage_rule_names_the_round() -> None:
    good, dead = ShannonLinks(np.full(CLIENTS, 1e7)), ShannonLinks(np.zeros(CLIENTS))
    channel = source(good, dead)
    problem = replace(template(channel, 1.0), outage_latency_s=np.inf)
    with pytest.raises(InfeasibleError, match="Round 1: client 0 has ranks to send but no signal"):
        run_rounds(problem, 2, channel, quick)
    with pytest.raises(InfeasibleError, match="no signal"):
        least_mean_latency_s(problem, 2, channel)


def dead_every(period: int) -> ChannelSource:
    good, dead = ShannonLinks(np.full(CLIENTS, 1e8)), ShannonLinks(np.zeros(CLIENTS))
    return lambda index: dead if index % period == 0 else good


def test_a_target_is_judged_with_what_empty_rounds_cost() -> None:
    """Every 10th round waits 5 targets: that alone is half of the target."""
    problem = template(dead_every(10), 1.0)
    happened = least_mean_latency_s(problem, 1, source(ShannonLinks(np.full(CLIENTS, 1e8))))
    least = least_mean_latency_s(problem, 100, dead_every(10))
    assert least == pytest.approx(0.1 * 5.0 + 0.9 * happened)
    tight = replace(problem, latency_target_s=1.2 * happened)
    least = least_mean_latency_s(tight, 100, dead_every(10))
    assert least > tight.latency_target_s
    smallest = least_reachable_target_s(tight, 100, dead_every(10), least)
    assert smallest == pytest.approx(0.9 * happened / 0.5, rel=2e-3)


def test_no_target_is_reachable_with_a_fifth_of_the_rounds_dead() -> None:
    """Such a round lasts 5 targets; the search for one ends at once."""
    problem = template(dead_every(5), 1.0)
    least = least_mean_latency_s(problem, 50, dead_every(5))
    assert least > 1.0
    assert least_reachable_target_s(problem, 50, dead_every(5), least) is None


def test_clients_with_nothing_to_send_are_never_dead() -> None:
    problem = replace(
        template(dead_every(1), 1e-3),
        rank_payload_bits=np.zeros(CLIENTS),
        compute_delay_s=np.full(CLIENTS, 0.1),
    )
    least = least_mean_latency_s(problem, 5, dead_every(1))
    assert least == pytest.approx(5e-3)
    smallest = least_reachable_target_s(problem, 5, dead_every(1), least)
    assert smallest == pytest.approx(0.1, rel=2e-3)
