"""The answer's type, and the two searches on functions whose roots are known."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.allocation.solve import (
    BrokenPlanError,
    Check,
    Solution,
    Status,
    checked,
    clearing_price,
    smallest_deadline,
)


class TestSolution:
    @pytest.mark.parametrize(
        ("objective", "bound", "gap"),
        [
            (2.0, 1.0, 1.0),
            (3.0, 3.0, 0.0),
            (0.0, 0.0, 0.0),
            (1.0, 0.0, math.inf),
            (1.0, None, None),
            (None, None, None),
        ],
    )
    def test_gap(self, objective: float | None, bound: float | None, gap: float | None) -> None:
        solution = Solution[str](
            Status.FEASIBLE, "A plan.", "some", objective=objective, lower_bound=bound
        )
        assert solution.gap == gap

    def test_check(self) -> None:
        assert Check({"band": -0.1, "budget": 1e-10}).passed
        assert not Check({"band": 1e-8}).passed
        assert not Check({"band": -0.1, "budget": math.nan}).passed
        assert Check({"band": -0.1, "budget": 0.3}).worst == ("budget", 0.3)
        assert Check({"band": math.nan, "budget": 0.3}).worst[0] == "band"

    def test_a_plan_that_breaks_a_constraint_is_never_returned(self) -> None:
        solution = Solution(Status.OPTIMAL, "A plan.", "some", plan="plan")
        good = checked(solution, lambda plan: Check({plan: 0.0}))
        assert good.check == Check({"plan": 0.0})
        with pytest.raises(BrokenPlanError, match="solver some exceeds 'plan'"):
            checked(solution, lambda plan: Check({plan: 1.0}))

    def test_no_plan_needs_no_check(self) -> None:
        nothing = Solution[str](Status.INFEASIBLE, "None exists.", "some")
        assert checked(nothing, lambda _: Check({"band": 1.0})) is nothing


def hyperbolas(starts: list[float], work: float) -> Callable[[float], tuple[float, float]]:
    """Fixed-efficiency clients: `sum work / (tau - start)`."""

    def need(deadline: float) -> tuple[float, float]:
        if deadline <= max(starts):
            return math.inf, math.nan
        times = [deadline - start for start in starts]
        return sum(work / t for t in times), -sum(work / t**2 for t in times)

    return need


class TestSmallestDeadline:
    @given(st.floats(-6, 6), st.floats(-6, 6), st.just(0.0) | st.floats(1e-3, 100))
    def test_one_hyperbola_shifted_and_scaled(
        self, log_work: float, log_budget: float, shift: float
    ) -> None:
        work, budget = 10.0**log_work, 10.0**log_budget
        shift *= work / budget
        root = shift + work / budget
        bracket = smallest_deadline(hyperbolas([shift], work), budget, shift, 3 * root)
        assert bracket.low < root * (1 + 1e-15)
        assert root <= bracket.high * (1 + 1e-15)
        assert bracket.high - bracket.low <= 1e-12 * bracket.high
        assert bracket.iterations <= 10

    @pytest.mark.parametrize("start", [None, 0.0, 5.001, 7.0, 1e9])
    def test_any_start(self, start: float | None) -> None:
        need = hyperbolas([1.0, 2.0, 5.0], 4.0)
        bracket = smallest_deadline(need, 3.0, 5.0, 1e6, start)
        assert need(bracket.high)[0] <= 3.0 < need(bracket.low)[0]
        assert bracket.high - bracket.low <= 1e-12 * bracket.high

    def test_the_lower_end_may_be_the_answer(self) -> None:
        for start in (None, 50.0):
            bracket = smallest_deadline(
                lambda tau: (1.0 / tau, -1.0 / tau**2), 1.0, 7.0, 100.0, start
            )
            assert bracket.low == 7.0
            assert bracket.high == pytest.approx(7.0, rel=1e-12)
            assert bracket.iterations <= 3

    def test_both_ends_alike(self) -> None:
        bracket = smallest_deadline(lambda _: (1.0, -1.0), 1.0, 7.0, 7.0)
        assert (bracket.low, bracket.high) == (7.0, 7.0)

    def test_jump_without_a_derivative(self) -> None:
        """A need that drops from 2 to 0 at pi: bisection alone."""
        need = lambda tau: (2.0 if tau < math.pi else 0.0, math.nan)  # noqa: E731
        bracket = smallest_deadline(need, 1.0, 0.0, 100.0)
        assert bracket.low < math.pi <= bracket.high
        assert bracket.high - bracket.low <= 1e-12 * bracket.high

    def test_trace_never_rises(self) -> None:
        trace = smallest_deadline(hyperbolas([1.0, 2.0], 4.0), 3.0, 2.0, 100.0, 90.0).trace
        assert list(trace) == sorted(trace, reverse=True)


class TestClearingPrice:
    @given(st.floats(-20, 20), st.floats(0.1, 10), st.floats(-40, 40))
    def test_smooth(self, root: float, steepness: float, start: float) -> None:
        def excess(price: float) -> tuple[float, float]:
            value = -math.tanh(steepness * (price - root))
            return value, -steepness * (1 - value**2)

        price = clearing_price(excess, -50.0, 50.0, start)
        assert price.low - 1e-12 <= root <= price.high + 1e-12
        assert price.high - price.low <= 1e-6
        assert price.low <= price.point <= price.high

    @given(st.floats(-20, 20), st.floats(-40, 40))
    def test_jump(self, root: float, start: float) -> None:
        price = clearing_price(lambda m: (1.0 if m < root else -1.0, 0.0), -50.0, 50.0, start)
        assert price.low < root <= price.high
        assert price.high - price.low <= 1e-13

    def test_stops_where_it_is_enough(self) -> None:
        seen: list[float] = []

        def excess(price: float) -> tuple[float, float]:
            seen.append(price)
            return 1.0 - math.exp(price), -math.exp(price)

        price = clearing_price(excess, -10.0, 10.0, 3.0, enough=lambda step: step < 0.5)
        assert price.point == seen[-1]
        assert abs(price.point) < 0.5
        assert abs(clearing_price(excess, -10.0, 10.0, 3.0).point) < 1e-7
