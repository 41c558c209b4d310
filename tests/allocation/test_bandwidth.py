"""Min-max bandwidth against independent inverses, a convex solver, and plain arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from airtune.allocation.bandwidth import (
    BandwidthPlan,
    Uploads,
    check_bandwidth,
    equal_bandwidth,
    minmax_bandwidth,
)
from airtune.allocation.solve import Status
from airtune.errors import InputError
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import FixedEfficiencyLinks, Links, ShannonLinks


def random_cell(rng: np.random.Generator, clients: int) -> Uploads:
    """Clients over four decades of signal, shifted and scaled in time, bits and bandwidth."""
    time, hertz = 10.0 ** rng.uniform(-3, 3, 2)
    return Uploads(
        ShannonLinks(hertz * 10 ** rng.uniform(5, 9, clients)),
        time * hertz * rng.uniform(1e5, 1e7, clients),
        time * rng.uniform(0, 5, clients) * rng.integers(0, 2),
        hertz * 10 ** rng.uniform(5.5, 8),
    )


def solve(cell: Uploads) -> BandwidthPlan:
    solution = minmax_bandwidth(
        cell.links, cell.payload_bits, cell.fixed_delay_s, cell.bandwidth_hz
    )
    assert solution.status is Status.OPTIMAL
    assert solution.plan is not None
    assert solution.check is not None
    assert solution.check.passed
    assert solution.gap is not None
    assert 0 <= solution.gap < 1e-11
    return solution.plan


def plain_need(cell: Uploads, deadline: float) -> float:
    """Bandwidth that all clients need together, each inverted by bracketing."""
    total = []
    for client in range(len(cell.links)):
        cn0 = float(cell.links.cn0_hz[client])  # type: ignore[attr-defined]
        rate = cell.payload_bits[client] / (deadline - cell.fixed_delay_s[client])
        if rate * math.log(2) >= cn0:
            return math.inf

        def lack(log_b: float, cn0: float = cn0, rate: float = rate) -> float:
            b = math.exp(log_b)
            return rate - b * math.log1p(cn0 / b) / math.log(2)

        ends = math.log(cell.bandwidth_hz) - 60.0, math.log(cell.bandwidth_hz) + 40.0
        total.append(math.exp(brentq(lack, *ends, xtol=1e-13, rtol=1e-13)))
    return math.fsum(total)


def test_200_random_cells_by_independent_inverse() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        # Plain inversion is slow: sizes up to 500, most of them small.
        cell = random_cell(rng, int(2 * 250.0 ** (rng.uniform() ** 2)))
        plan = solve(cell)
        assert math.fsum(plan.bandwidth_hz) <= cell.bandwidth_hz * (1 + 1e-12)
        assert (plan.bandwidth_hz >= 0).all()
        finish = cell.fixed_delay_s + cell.payload_bits / cell.links.rate(plan.bandwidth_hz)
        assert finish.max() <= plan.latency_s * (1 + 1e-13)
        assert plain_need(cell, plan.latency_s * (1 - 1e-6)) > cell.bandwidth_hz


def convex_latency(cell: Uploads) -> float | None:
    """The same problem in cvxpy with Clarabel; None where it does not report optimal."""
    import cvxpy

    count = len(cell.links)
    hertz = cell.bandwidth_hz / count
    unit = float((cell.payload_bits / cell.links.rate(np.full(count, hertz))).max())
    share, deadline = cvxpy.Variable(count, nonneg=True), cvxpy.Variable()
    cn0 = cell.links.cn0_hz / hertz  # type: ignore[attr-defined]
    rate = -cvxpy.rel_entr(share, share + cn0) / math.log(2)
    wait = cvxpy.inv_pos(deadline - cell.fixed_delay_s / unit)
    bits = cell.payload_bits / (hertz * unit)
    program = cvxpy.Problem(
        cvxpy.Minimize(deadline), [cvxpy.multiply(bits, wait) <= rate, cvxpy.sum(share) <= count]
    )
    try:
        program.solve(solver=cvxpy.CLARABEL)
    except cvxpy.SolverError:
        return None
    return float(program.value) * unit if program.status == cvxpy.OPTIMAL else None


@pytest.mark.parametrize(("seed", "clients"), [(0, 2), (1, 7), (2, 20), (3, 50)])
def test_convex_solver_agrees(seed: int, clients: int) -> None:
    cell = random_cell(np.random.default_rng(seed), clients)
    theirs = convex_latency(cell)
    assert theirs is not None
    assert solve(cell).latency_s == pytest.approx(theirs, rel=1e-5)


@pytest.mark.slow
def test_convex_solver_agrees_on_200_cells() -> None:
    """It errs by up to 5e-6 itself; where it reports optimal the two are within 1e-5."""
    opinions = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        cell = random_cell(rng, int(2 * 250.0 ** rng.uniform()))
        theirs = convex_latency(cell)
        if theirs is not None:
            opinions += 1
            assert solve(cell).latency_s == pytest.approx(theirs, rel=1e-5), seed
    assert opinions >= 100


class TestKnownAnswers:
    def test_fixed_efficiency_in_closed_form(self) -> None:
        """Equal delays: b proportional to bits / efficiency, latency = delay + their sum / B."""
        bits, eta = np.array([1e6, 3e6, 5e5]), np.array([1.0, 4.0, 0.5])
        plan = solve(Uploads(FixedEfficiencyLinks(eta), bits, np.full(3, 0.7), 2e6))
        needs = bits / eta
        assert plan.latency_s == pytest.approx(0.7 + needs.sum() / 2e6, rel=1e-12)
        np.testing.assert_allclose(plan.bandwidth_hz, 2e6 * needs / needs.sum(), rtol=1e-11)

    def test_equal_clients_share_equally(self) -> None:
        plan = solve(Uploads(ShannonLinks(np.full(8, 1e6)), np.full(8, 1e6), np.zeros(8), 4e6))
        np.testing.assert_allclose(plan.bandwidth_hz, 5e5, rtol=1e-11)

    def test_one_client_has_the_band(self) -> None:
        links = ShannonLinks(np.array([3e6]))
        plan = solve(Uploads(links, np.array([1e6]), np.array([0.25]), 1e6))
        assert plan.latency_s == pytest.approx(0.25 + 1e6 / (1e6 * 2.0), rel=1e-12)

    def test_a_late_client_without_payload_sets_the_latency(self) -> None:
        links = ShannonLinks(np.array([1e9, 1e9]))
        solution = minmax_bandwidth(links, [0.0, 1e3], [9.0, 0.0], 1e6, names=("slow", "quick"))
        assert solution.plan is not None
        assert solution.plan.latency_s == 9.0
        np.testing.assert_array_equal(solution.plan.bandwidth_hz, [0.0, 1e6])
        assert solution.gap == 0
        assert "client slow ends last" in solution.message
        assert "not the band" in solution.message

    def test_nothing_to_send(self) -> None:
        solution = minmax_bandwidth(ShannonLinks(np.zeros(2)), 0.0, [1.0, 2.0], 1e6)
        assert solution.objective == 2.0
        assert solution.gap == 0

    def test_cqi_table_by_plain_search(self) -> None:
        """A staircase of needs: the smallest deadline on a fine grid that fits."""
        rng = np.random.default_rng(4)
        links = CqiLinks(10 ** rng.uniform(5, 7, 5))
        bits = rng.uniform(1e5, 1e6, 5)
        plan = solve(Uploads(links, bits, np.zeros(5), 8e5))
        grid = plan.latency_s * np.linspace(0.9, 1.1, 2001)
        fits = [float(links.bandwidth_for(bits / tau).sum()) <= 8e5 for tau in grid]
        first = grid[int(np.argmax(fits))]
        assert 0 <= first - plan.latency_s <= 1.01e-4 * plan.latency_s


class TestInvariances:
    @given(st.integers(0, 10_000), st.integers(1, 40))
    @settings(max_examples=30)
    def test_permutation(self, seed: int, clients: int) -> None:
        rng = np.random.default_rng(seed)
        cell = random_cell(rng, clients)
        order = rng.permutation(clients)
        shuffled = Uploads(
            cell.links.select(order),
            cell.payload_bits[order],
            cell.fixed_delay_s[order],
            cell.bandwidth_hz,
        )
        plan, other = solve(cell), solve(shuffled)
        assert other.latency_s == pytest.approx(plan.latency_s, rel=1e-11)

    @given(st.integers(0, 10_000), st.floats(-6, 6))
    @settings(max_examples=30)
    def test_time_and_bits_together(self, seed: int, log_scale: float) -> None:
        cell = random_cell(np.random.default_rng(seed), 9)
        scale = 10.0**log_scale
        scaled = Uploads(
            cell.links, scale * cell.payload_bits, scale * cell.fixed_delay_s, cell.bandwidth_hz
        )
        assert solve(scaled).latency_s == pytest.approx(scale * solve(cell).latency_s, rel=1e-11)

    @given(st.integers(0, 10_000))
    @settings(max_examples=30)
    def test_never_worse_than_equal_shares(self, seed: int) -> None:
        cell = random_cell(np.random.default_rng(seed), 12)
        equal = equal_bandwidth(
            cell.links, cell.payload_bits, cell.fixed_delay_s, cell.bandwidth_hz
        )
        assert equal.objective is not None
        assert equal.lower_bound is not None
        latency = solve(cell).latency_s
        assert latency <= equal.objective * (1 + 1e-12)
        assert equal.lower_bound == pytest.approx(latency, rel=1e-11)
        assert equal.gap == pytest.approx(equal.objective / latency - 1, abs=1e-10)

    @pytest.mark.parametrize("guess", [0.0, 0.5, 0.999, 1.0, 1.001, 50.0])
    def test_a_guess_changes_nothing(self, guess: float) -> None:
        cell = random_cell(np.random.default_rng(5), 30)
        latency = solve(cell).latency_s
        again = minmax_bandwidth(
            cell.links,
            cell.payload_bits,
            cell.fixed_delay_s,
            cell.bandwidth_hz,
            start_s=guess * latency,
        )
        assert again.objective == pytest.approx(latency, rel=1e-11)


@pytest.mark.parametrize("cn0", [1e-30, 1e30])
def test_extreme_signals(cn0: float) -> None:
    for clients in (1, 5):
        links = ShannonLinks(np.full(clients, cn0))
        solve(Uploads(links, np.full(clients, 1e6), np.full(clients, 0.1), 1e7))
    unlike = ShannonLinks(np.array([1e6, cn0, 1e7]))
    solve(Uploads(unlike, np.full(3, 1e6), np.full(3, 0.1), 1e7))


class TestRefusals:
    @pytest.mark.parametrize("solver", [minmax_bandwidth, equal_bandwidth])
    @pytest.mark.parametrize(
        "links",
        [
            ShannonLinks(np.array([1e6, 0.0])),
            FixedEfficiencyLinks(np.array([1.0, 0.0])),
            CqiLinks(np.array([1e6, 0.0])),
        ],
    )
    def test_no_signal_names_the_client(self, solver: object, links: Links) -> None:
        solution = solver(links, 1e6, 0.0, 1e6, names=("near", "tunnel"))  # type: ignore[operator]
        assert solution.status is Status.INFEASIBLE
        assert solution.plan is None
        assert solution.objective is None
        assert solution.message.startswith("client tunnel has a payload but no signal")

    @pytest.mark.parametrize(
        ("bits", "delay", "band", "words"),
        [
            ([1.0, -1.0], 0.0, 1e6, "payload_bits of client b is -1.0"),
            ([1.0, math.nan], 0.0, 1e6, "payload_bits of client b is nan"),
            (1.0, [0.0, math.inf], 1e6, "fixed_delay_s of client b is inf"),
            (1.0, 0.0, 0.0, "bandwidth_hz is 0.0"),
            (1.0, 0.0, math.nan, "bandwidth_hz is nan"),
        ],
    )
    def test_bad_numbers(self, bits: object, delay: object, band: float, words: str) -> None:
        links = ShannonLinks(np.array([1e6, 1e6]))
        with pytest.raises(InputError, match=words):
            minmax_bandwidth(links, bits, delay, band, names=("a", "b"))  # type: ignore[arg-type]

    def test_the_check_sees_every_violation(self) -> None:
        cell = Uploads(ShannonLinks(np.full(2, 1e6)), np.full(2, 1e6), np.zeros(2), 1e6)
        good = solve(cell)
        assert check_bandwidth(cell, good).passed
        over = BandwidthPlan(1.01 * good.bandwidth_hz, good.latency_s)
        name, excess = check_bandwidth(cell, over).worst
        assert name == "bandwidth"
        assert excess == pytest.approx(0.01, rel=1e-6)
        early = BandwidthPlan(good.bandwidth_hz, 0.99 * good.latency_s)
        assert check_bandwidth(cell, early).worst[0] == "latency"
        assert not check_bandwidth(cell, early).passed
        negative = BandwidthPlan(np.array([-1e3, 1e6]), good.latency_s)
        assert not check_bandwidth(cell, negative).passed
