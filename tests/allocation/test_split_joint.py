"""Split point, rank, subchannels and power together: the joint search, the published iteration
and the baselines."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from airtune.allocation.solve import Status
from airtune.allocation.split.alternatives import BASELINES, Blocks, solve_blocks, solve_greedy
from airtune.allocation.split.joint import solve_joint
from airtune.allocation.split.problem import LinkPlan, SplitTraining, check_split_plan
from airtune.allocation.subchannels.power import Uplink
from airtune.errors import InputError
from tests.allocation.split_cases import brute_force_total_s, plain_total_s, random_training


def size(seed: int) -> tuple[int, int]:
    rng = np.random.default_rng(10_000 + seed)
    clients = int(rng.integers(2, 5))
    return clients, int(rng.integers(clients, 7))


@pytest.mark.parametrize("seed", range(20))
def test_joint_against_brute_force(seed: int) -> None:
    """Up to 4 clients and 6 subchannels: `joint` finds the optimum, and proves it."""
    training = random_training(seed, *size(seed))
    answer = solve_joint(training)
    optimum = brute_force_total_s(training)
    assert answer.status is Status.OPTIMAL
    assert answer.objective == pytest.approx(optimum, rel=1e-9)
    assert answer.lower_bound is not None
    assert answer.lower_bound <= optimum * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_round_trips_against_brute_force_and_plain_loops(seed: int) -> None:
    """Of the size of a step, so that they change which candidate is best."""
    training = random_training(seed, *size(seed), round_trip_s=0.2)
    joint = solve_joint(training)
    optimum = brute_force_total_s(training)
    assert joint.status is Status.OPTIMAL
    assert joint.objective == pytest.approx(optimum, rel=1e-9)
    for answer in (joint, solve_greedy(training), solve_blocks(training, Blocks(), seed, "blocks")):
        assert answer.plan is not None
        assert answer.check is not None
        assert answer.check.passed
        assert answer.objective == pytest.approx(plain_total_s(training, answer.plan), rel=1e-11)
        assert optimum * (1 - 1e-9) <= (answer.objective or 0.0)


def test_a_round_trip_moves_no_decision_of_a_single_candidate() -> None:
    """All clients wait for it alike: the total grows by the transfers that follow one another."""
    quick = random_training(3, 3, 6, candidates=1)
    (candidate,) = quick.candidates
    slow = replace(quick, round_trip_s=0.7)
    before, after = solve_joint(quick), solve_joint(slow)
    assert before.plan is not None
    assert after.plan is not None
    assert after.plan.main.owner.tolist() == before.plan.main.owner.tolist()
    a_step = 0.7 * (1 + (candidate.gradient_bits > 0))
    added = candidate.rounds * (5 * a_step + 2 * 0.7)
    assert after.objective == pytest.approx((before.objective or 0.0) + added, rel=1e-9)
    # Without a downlink that is charged, its round trips are not charged either.
    free = tuple(replace(c, gradient_bits=0.0) for c in slow.candidates)
    unpaid = replace(slow, downlink_rate_bps=None, candidates=free)
    still = replace(unpaid, round_trip_s=0.0)
    added = candidate.rounds * (5 * 0.7 + 0.7)
    assert solve_joint(unpaid).objective == pytest.approx(
        (solve_joint(still).objective or 0.0) + added, rel=1e-9
    )


@pytest.mark.parametrize("seed", range(12))
def test_joint_is_proven_optimal_where_subchannels_are_alike(seed: int) -> None:
    clients, subchannels = size(seed)
    training = random_training(seed, clients, subchannels, flat=True)
    answer = solve_joint(training)
    assert answer.status is Status.OPTIMAL
    assert answer.objective == pytest.approx(brute_force_total_s(training), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("flat", [True, False])
def test_total_is_that_of_the_plan_and_never_rises(seed: int, flat: bool) -> None:
    training = random_training(seed, 4, 9, flat, candidates=6)
    joint = solve_joint(training)
    assert joint.objective is not None
    answers = [joint, solve_greedy(training)]
    answers += [
        solve_blocks(training, blocks, seed, name, joint) for name, blocks in BASELINES.items()
    ]
    for answer in answers:
        assert answer.plan is not None
        assert answer.check is not None
        assert answer.check.passed
        assert answer.objective is not None
        assert answer.objective == pytest.approx(plain_total_s(training, answer.plan), rel=1e-11)
        assert np.all(np.diff(answer.trace) <= 0), answer.solver
        assert answer.objective >= joint.objective * (1 - 1e-9)
        assert answer.lower_bound == joint.lower_bound


@pytest.mark.parametrize("seed", range(6))
def test_bound_where_optimality_is_not_proven(seed: int) -> None:
    """More assignments than can be looked at: the bound stays below, and says how far."""
    training = random_training(seed, 5, 24)
    answer = solve_joint(training)
    assert answer.lower_bound is not None
    assert answer.objective is not None
    assert 0.8 * answer.objective < answer.lower_bound <= answer.objective
    for solver in (solve_greedy(training), solve_blocks(training, Blocks("random"), 0, "blocks")):
        assert solver.objective is not None
        assert solver.objective >= answer.lower_bound


def test_every_random_decision_costs_on_average() -> None:
    ratios: dict[str, list[float]] = {name: [] for name in BASELINES}
    for seed in range(5):
        training = random_training(seed, 3, 7)
        best = solve_joint(training)
        for name, blocks in BASELINES.items():
            total = solve_blocks(training, blocks, seed, name, best).objective
            assert total is not None
            assert best.objective is not None
            ratios[name].append(total / best.objective)
    means = {name: float(np.mean(values)) for name, values in ratios.items()}
    assert min(means.values()) > 1.001
    assert means["random"] > max(value for name, value in means.items() if name != "random")


def test_random_draws_follow_the_seed() -> None:
    training = random_training(1, 3, 7, candidates=6)
    random = BASELINES["random"]
    once, again = (solve_blocks(training, random, 5, "random").objective for _ in range(2))
    others = {solve_blocks(training, random, seed, "random").objective for seed in range(5)}
    assert once == again
    assert len(others) > 1


@pytest.mark.parametrize("flat", [True, False])
def test_order_of_clients_does_not_matter(flat: bool) -> None:
    training = random_training(2, 4, 9, flat)
    order = np.array([2, 0, 3, 1])
    assert training.downlink_rate_bps is not None
    turned = replace(
        training,
        candidates=tuple(
            replace(
                c,
                client_forward_s=np.asarray(c.client_forward_s)[order],
                client_backward_s=np.asarray(c.client_backward_s)[order],
            )
            for c in training.candidates
        ),
        main=training.main.select(order),
        federated=training.federated.select(order),
        downlink_rate_bps=training.downlink_rate_bps[order],
        names=tuple(training.names[k] for k in order),
    )
    once, answer = solve_joint(training), solve_joint(turned)
    assert answer.objective == pytest.approx(once.objective, rel=1e-9)
    assert once.plan is not None
    assert answer.plan is not None
    counts = np.bincount(once.plan.main.owner, minlength=4)
    assert np.bincount(answer.plan.main.owner, minlength=4).tolist() == counts[order].tolist()


@pytest.mark.parametrize("flat", [True, False])
def test_time_and_counts_scale_together(flat: bool) -> None:
    """Seven times the seconds and bits: every stage takes seven times longer."""
    training = random_training(3, 3, 6, flat)
    costs = (
        "client_forward_s",
        "client_backward_s",
        "server_s",
        "activation_bits",
        "gradient_bits",
        "adapter_bits",
    )
    scaled = tuple(
        replace(candidate, **{name: 7 * getattr(candidate, name) for name in costs})
        for candidate in training.candidates
    )
    once, answer = solve_joint(training), solve_joint(replace(training, candidates=scaled))
    assert once.objective is not None
    assert answer.objective == pytest.approx(7 * once.objective, rel=1e-9)


def test_equal_clients_get_equal_counts() -> None:
    training = random_training(4, 3, 9, flat=True)
    one = Uplink(np.full(9, 5e5), np.full((3, 9), 1e-9), np.full(3, 0.1), 0.2)
    equal = replace(
        training,
        main=one,
        federated=one,
        downlink_rate_bps=None,
        candidates=tuple(
            replace(c, gradient_bits=0.0, client_forward_s=0.08, client_backward_s=0.04)
            for c in training.candidates
        ),
    )
    answer = solve_joint(equal)
    assert answer.plan is not None
    assert np.bincount(answer.plan.main.owner).tolist() == [3, 3, 3]
    assert np.bincount(answer.plan.federated.owner).tolist() == [3, 3, 3]


def test_one_client_owns_everything() -> None:
    training = random_training(5, 1, 4)
    answer = solve_joint(training)
    assert answer.status is Status.OPTIMAL
    assert answer.objective == pytest.approx(brute_force_total_s(training), rel=1e-9)


def test_message_names_what_binds() -> None:
    flat = Uplink(np.full(4, 5e5), np.array([[1e-9], [4e-9]]) * np.ones(4), np.full(2, 0.1), 1.0)
    training = replace(random_training(11, 2, 4), main=flat, federated=flat)
    uneven = tuple(
        replace(
            c,
            client_forward_s=float(np.max(c.client_forward_s)) * np.array([1 / 3, 1.0]),
            client_backward_s=float(np.max(c.client_backward_s)) * np.array([1 / 3, 1.0]),
        )
        for c in training.candidates
    )
    message = solve_joint(replace(training, candidates=uneven)).message
    assert "power of client b is the limit" in message
    short = replace(flat, power_total_w=0.05)
    message = solve_joint(replace(training, main=short)).message
    assert "the total power of the main server's link is the limit" in message
    assert message.startswith("Optimal: split after block ")


def test_nothing_to_send() -> None:
    """Without bits on a link only computing counts, and a link may even be too small."""
    training = random_training(6, 3, 6)
    quiet = replace(
        training,
        candidates=tuple(
            replace(c, activation_bits=0.0, adapter_bits=0.0, gradient_bits=0.0)
            for c in training.candidates
        ),
        main=replace(training.main, bandwidth_hz=np.ones(1), noise_to_gain=np.ones((3, 1))),
    )
    for answer in (solve_joint(quiet), solve_greedy(quiet)):
        assert answer.plan is not None
        assert answer.status is Status.OPTIMAL
        assert answer.plan.main.psd_w_per_hz.tolist() == [0.0]
        assert answer.objective == min(
            quiet.total_s(c, quiet.main_demand(c).deadline(0.0), 0.0) for c in quiet.candidates
        )


@pytest.mark.parametrize("noise_to_gain", [4e-21 / 1e30, 4e-21 / 1e-30])
@pytest.mark.parametrize("flat", [True, False])
def test_extreme_gains(noise_to_gain: float, flat: bool) -> None:
    training = random_training(7, 3, 6, flat)
    main = training.main
    noise = main.noise_to_gain / main.noise_to_gain.max() * noise_to_gain
    extreme = replace(training, main=replace(main, noise_to_gain=noise))
    answer = solve_joint(extreme)
    optimum = brute_force_total_s(extreme)
    assert answer.objective is not None
    assert answer.lower_bound is not None
    assert answer.objective == pytest.approx(optimum, rel=1e-9)
    assert answer.lower_bound == pytest.approx(optimum, rel=1e-8)


def blocked(training: SplitTraining, case: str) -> SplitTraining:
    main = training.main
    noise, caps = main.noise_to_gain.copy(), main.power_max_w.copy()
    if case == "few":
        return replace(
            training, main=replace(main, bandwidth_hz=np.ones(2), noise_to_gain=noise[:, :2])
        )
    if case == "deaf":
        noise[1] = np.inf
    elif case == "crowded":
        noise[:, 1:] = np.inf
        noise[2] = 1e-9
    elif case == "silent":
        caps[2] = 0.0
    else:
        return replace(training, main=replace(main, power_total_w=0.0))
    return replace(training, main=replace(main, noise_to_gain=noise, power_max_w=caps))


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("few", "main server's link has 2 subchannels for 3 clients"),
        ("deaf", "client b has no signal"),
        ("crowded", "client b gets no subchannel"),
        ("silent", "client c has power 0"),
        ("no power", "total power of the main server's link is 0"),
    ],
)
def test_infeasible_says_who_and_why(case: str, words: str) -> None:
    training = blocked(random_training(8, 3, 5), case)
    answers = [solve_joint(training), solve_greedy(training)]
    answers.append(solve_blocks(training, BASELINES["random"], 0, "random"))
    for answer in answers:
        assert answer.status is Status.INFEASIBLE
        assert answer.plan is None
        assert answer.objective is None
        assert words in answer.message


def test_check_sees_broken_plans() -> None:
    training = random_training(9, 3, 6)
    answer = solve_joint(training)
    assert answer.plan is not None
    assert answer.objective is not None
    plan, total = answer.plan, answer.objective
    assert check_split_plan(training, plan, total).passed
    loud = replace(plan, main=LinkPlan(plan.main.owner, plan.main.psd_w_per_hz * 1.5))
    unreachable = np.full_like(plan.federated.owner, -1)
    lost = replace(plan, federated=LinkPlan(unreachable, plan.federated.psd_w_per_hz))
    negative = replace(plan, main=LinkPlan(plan.main.owner, -plan.main.psd_w_per_hz))
    for broken, claimed in ((loud, total), (lost, total), (negative, total), (plan, total * 0.99)):
        assert not check_split_plan(training, broken, claimed).passed


def test_unknown_way_of_a_block() -> None:
    with pytest.raises(InputError, match=r"blocks.power is even.*exact, random"):
        Blocks(power="even")


@pytest.mark.parametrize("key", ["adapter_bits", "activation_bits"])
@pytest.mark.parametrize("seed", range(4))
def test_a_candidate_that_sends_nothing_leaves_the_others_a_chance(seed: int, key: str) -> None:
    """The greedy iteration starts from it; a link without power made all others endless."""
    training = random_training(seed, 3, 5)
    first, *others = training.candidates
    # So slow that it cannot be the answer.
    changes: dict[str, Any] = {key: 0.0, "rounds": 1e6}
    training = replace(training, candidates=(replace(first, **changes), *others))
    greedy, joint = solve_greedy(training), solve_joint(training)
    assert greedy.plan is not None
    assert greedy.plan.candidate > 0
    assert greedy.objective is not None
    assert joint.objective is not None
    assert greedy.objective <= 2.0 * joint.objective
