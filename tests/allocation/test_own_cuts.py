"""A cut for every client by thresholds: against all combinations, and in its limits."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from airtune.allocation.solve import Status
from airtune.allocation.split.own_cuts import (
    CutDelays,
    CutProblem,
    best_common_cut,
    best_cuts,
    check_cuts,
    solve_common,
    solve_thresholds,
)


def drawn(seed: int, clients: int = 4, cuts: int = 6, *, monotone: bool = True) -> CutDelays:
    """More blocks cost a client more and the server less, unless not `monotone`."""
    draws = np.random.default_rng(seed)
    speed = draws.uniform(0.05, 2.0, size=(clients, 1))
    up, down = draws.uniform(0.0, 2.0, size=(2, clients, 1))
    before, after = draws.uniform(0.2, 1.0, size=(2, clients, cuts))
    server = draws.uniform(0.05, 0.5, size=(clients, cuts))
    if monotone:
        before, after = np.cumsum(before, axis=1), np.cumsum(after, axis=1)
        server = np.cumsum(server[:, ::-1], axis=1)[:, ::-1]
    return CutDelays(up + before / speed, down + after / speed, server)


def seconds(delays: CutDelays, choice: Any) -> float:
    """The step by plain loops."""
    chosen = list(enumerate(choice))
    before = max(float(delays.before_s[k, cut]) for k, cut in chosen)
    after = max(float(delays.after_s[k, cut]) for k, cut in chosen)
    return before + sum(float(delays.server_s[k, cut]) for k, cut in chosen) + after


@pytest.mark.parametrize("monotone", [True, False])
def test_thresholds_against_all_combinations(monotone: bool) -> None:
    for seed in range(12):
        delays = drawn(seed, monotone=monotone)
        found = best_cuts(delays)
        best = min(seconds(delays, choice) for choice in product(range(6), repeat=4))
        assert delays.step_s(found) == seconds(delays, found)
        assert seconds(delays, found) == pytest.approx(best, rel=1e-12)


def test_own_cuts_are_never_slower_than_a_common_one() -> None:
    faster = 0
    for seed in range(40):
        delays = drawn(seed, clients=7, cuts=9)
        common = best_common_cut(delays)
        assert common is not None
        own_s, common_s = delays.step_s(best_cuts(delays)), delays.step_s(common)
        assert own_s <= common_s
        faster += own_s < 0.99 * common_s
    assert faster > 10


def test_equal_clients_get_equal_cuts() -> None:
    one = drawn(3, clients=1)
    alike = CutDelays(*(np.repeat(part, 5, axis=0) for part in vars(one).values()))
    assert len(set(best_cuts(alike).tolist())) == 1


def test_an_idle_server_is_given_all_work_and_a_slow_one_none() -> None:
    delays = drawn(1)
    free = CutDelays(delays.before_s, delays.after_s, np.zeros_like(delays.server_s))
    assert free.step_s(best_cuts(free)) == free.step_s(np.zeros(4, dtype=np.intp))
    slow = CutDelays(delays.before_s, delays.after_s, 1e6 * delays.server_s)
    assert best_cuts(slow).tolist() == [5, 5, 5, 5]


def test_a_cut_that_a_client_cannot_take_is_not_chosen() -> None:
    delays = drawn(2)
    before = delays.before_s.copy()
    before[0, 1:], before[1, 0] = np.inf, np.inf
    limited = CutDelays(before, delays.after_s, delays.server_s)
    choice = best_cuts(limited)
    assert choice[0] == 0
    assert choice[1] > 0
    assert best_common_cut(limited) is None
    before[2] = np.inf
    with pytest.raises(ValueError, match="a cut that it can take"):
        best_cuts(CutDelays(before, delays.after_s, delays.server_s))


def test_solutions_say_what_is_proven() -> None:
    problem = CutProblem(drawn(0), 3, [1, 2, 3, 4, 5, 6])
    own, common = solve_thresholds(problem), solve_common(problem)
    assert own.status == Status.OPTIMAL
    assert own.objective == own.lower_bound == pytest.approx(3 * problem.delays.step_s(own.plan))  # type: ignore[arg-type]
    assert common.status == Status.FEASIBLE
    assert common.objective is not None
    assert own.objective is not None
    assert common.lower_bound == own.objective < common.objective
    assert "above own cuts" in common.message
    before = np.full((4, 6), np.inf)
    none = CutProblem(
        CutDelays(before, before, before), 3, [1, 2, 3, 4, 5, 6], ("a", "b", "c", "d")
    )
    for solve in (solve_thresholds, solve_common):
        assert solve(none).status == Status.INFEASIBLE
        assert "a can take none" in solve(none).message


def test_the_check_notices_a_wrong_promise() -> None:
    problem = CutProblem(drawn(0), 3, [1, 2, 3, 4, 5, 6])
    choice = best_cuts(problem.delays)
    assert check_cuts(problem, choice, problem.round_s(choice)).passed
    assert not check_cuts(problem, choice, 0.99 * problem.round_s(choice)).passed


def test_own_cuts_that_take_no_time_are_no_reason_to_divide_by_it() -> None:
    """Each client alone has a cut that costs nothing, and there is none for both."""
    before = np.array([[0.0, 1.0], [1.0, 0.0]])
    problem = CutProblem(CutDelays(before, 0 * before, 0 * before), 2, [1, 2], ("a", "b"))
    assert solve_thresholds(problem).objective == 0.0
    common = solve_common(problem)
    assert common.objective == 2.0
    assert "2 s above own cuts" in common.message
