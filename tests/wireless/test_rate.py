"""Rates against plain formulas and independent inverses, at limits, and on input to refuse."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import lambertw

from airtune.errors import InputError
from airtune.wireless.rate import (
    FixedEfficiencyLinks,
    Links,
    MixedLinks,
    ShannonLinks,
    exponent_for,
    mixed_links,
)

CN0 = np.array([1e-30, 3.0, 1e6, 4.7e8, 1e30])


def plain_rate(bandwidth: float, cn0: float) -> float:
    return bandwidth * math.log1p(cn0 / bandwidth) / math.log(2) if bandwidth > 0 else 0.0


def plain_bandwidth(rate: float, cn0: float) -> float:
    """The inverse by bracketing in ln b, which knows nothing of Newton or Lambert."""
    low, high = math.log(cn0) - 200.0, math.log(cn0) + 40.0
    root = brentq(lambda s: plain_rate(math.exp(s), cn0) - rate, low, high, xtol=1e-14, rtol=1e-14)
    return math.exp(root)


class TestShannon:
    def test_rate_is_the_formula(self) -> None:
        for share in (1e-6, 0.01, 1.0, 30.0, 1e6):
            got = ShannonLinks(CN0).rate(share * CN0)
            want = [plain_rate(share * c, c) for c in CN0]
            np.testing.assert_allclose(got, want, rtol=1e-14)

    def test_one_bit_per_hertz_at_zero_decibels(self) -> None:
        np.testing.assert_allclose(ShannonLinks(CN0).rate(CN0), CN0, rtol=1e-15)

    def test_margin_divides_the_signal(self) -> None:
        links = ShannonLinks(CN0, margin=np.full(5, 2.0))
        np.testing.assert_allclose(links.rate(CN0), ShannonLinks(CN0 / 2).rate(CN0), rtol=1e-15)
        np.testing.assert_allclose(links.select(np.array([3])).rate(CN0[3:4]), links.rate(CN0)[3])

    @pytest.mark.parametrize("fraction", [1e-9, 1e-3, 0.1, 0.5, 0.9, 0.999])
    def test_inverse_agrees_with_bracketing(self, fraction: float) -> None:
        links = ShannonLinks(CN0)
        rate = fraction * links.limit_bps()
        want = [plain_bandwidth(r, c) for r, c in zip(rate, CN0, strict=True)]
        # Near the limit the inverse amplifies the rounding of the rate by 1 / (1 - fraction).
        np.testing.assert_allclose(links.bandwidth_for(rate), want, rtol=1e-13 / (1 - fraction))

    def test_inverse_agrees_with_lambert(self) -> None:
        theta = np.linspace(0.05, 0.95, 91)
        want = -theta - lambertw(-theta * np.exp(-theta), -1).real
        np.testing.assert_allclose(exponent_for(theta), want, rtol=1e-12)

    @given(st.floats(-290, -1e-12), st.floats(-30, 30))
    def test_inverse_round_trip(self, log_theta: float, log_cn0: float) -> None:
        links = ShannonLinks(np.array([10.0**log_cn0]))
        rate = 10.0 ** (log_theta / 10) * links.limit_bps()
        np.testing.assert_allclose(links.rate(links.bandwidth_for(rate)), rate, rtol=4e-15)

    @given(st.floats(1e-15, 1e-2))
    def test_inverse_near_the_limit(self, below: float) -> None:
        # u / (e^u - 1) = 1 - d has u = 2d + 2d^2/3 + O(d^3): an expansion of its own.
        theta = np.array([1.0 - below])
        d = 1.0 - theta
        tolerance = 3 * below**2 + 2e-16 / below
        np.testing.assert_allclose(exponent_for(theta), 2 * d + 2 * d**2 / 3, rtol=tolerance)

    def test_limits(self) -> None:
        links = ShannonLinks(np.array([5.0, 0.0]))
        limit = links.limit_bps()
        np.testing.assert_array_equal(limit, [5.0 / math.log(2), 0.0])
        np.testing.assert_array_equal(links.rate(np.zeros(2)), 0.0)
        for wide in (1e30, 1e300, np.inf):
            np.testing.assert_allclose(links.rate(np.full(2, wide)), limit, rtol=1e-15)
        np.testing.assert_array_equal(links.bandwidth_for(np.zeros(2)), 0.0)
        np.testing.assert_array_equal(links.bandwidth_for(limit + np.array([0.0, 1e-300])), np.inf)
        assert links.rate(np.full(2, 5e-324))[0] < 1e-300

    @pytest.mark.parametrize("share", [1e-8, 1e-3, 1.0, 1e2, 1e3])
    def test_slope_is_the_derivative(self, share: float) -> None:
        links, b = ShannonLinks(CN0), share * CN0
        step = 1e-4
        numeric = (links.rate(b * (1 + step)) - links.rate(b * (1 - step))) / (2 * step * b)
        np.testing.assert_allclose(links.slope(b), numeric, rtol=1e-6)

    def test_slope_far_out_follows_its_series(self) -> None:
        x = np.array([1e-12, 9.9e-5, 1.01e-4])
        want = x**2 * (0.5 - 2 * x / 3 + 0.75 * x**2 - 0.8 * x**3) / math.log(2)
        # Past the switch to the closed form, cancellation leaves 1e-16 / x^2.
        np.testing.assert_allclose(ShannonLinks(np.ones(3)).slope(1 / x), want, rtol=5e-8)

    def test_slope_at_zero_bandwidth(self) -> None:
        np.testing.assert_array_equal(
            ShannonLinks(np.array([1.0, 0.0])).slope(np.zeros(2)), [np.inf, 0.0]
        )

    @pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
    def test_refuses_by_number(self, bad: float) -> None:
        with pytest.raises(InputError, match=r"cn0_hz\[1\] is"):
            ShannonLinks(np.array([1.0, bad]))

    @pytest.mark.parametrize("bad", [0.5, np.nan])
    def test_refuses_margins(self, bad: float) -> None:
        with pytest.raises(InputError, match="margin"):
            ShannonLinks(np.array([1.0]), margin=bad)


class TestFixedEfficiency:
    def test_line_and_inverse(self) -> None:
        links = FixedEfficiencyLinks(np.array([2.0, 0.5, 0.0]))
        np.testing.assert_array_equal(links.rate(np.full(3, 4.0)), [8.0, 2.0, 0.0])
        np.testing.assert_array_equal(links.bandwidth_for(np.full(3, 4.0)), [2.0, 8.0, np.inf])
        np.testing.assert_array_equal(links.bandwidth_for(np.zeros(3)), 0.0)
        np.testing.assert_array_equal(links.slope(np.ones(3)), [2.0, 0.5, 0.0])
        np.testing.assert_array_equal(links.limit_bps(), [np.inf, np.inf, 0.0])
        np.testing.assert_array_equal(links.rate(np.full(3, np.inf)), [np.inf, np.inf, 0.0])
        assert len(links.select(np.array([True, False, True]))) == 2

    def test_refuses(self) -> None:
        with pytest.raises(InputError, match=r"spectral_efficiency_bps_hz\[0\] is -1"):
            FixedEfficiencyLinks(np.array([-1.0]))


class TestMixed:
    def test_each_client_by_its_own_model(self) -> None:
        links = mixed_links([3.0, np.nan, 1e6], [np.nan, 2.0, np.nan])
        assert isinstance(links, MixedLinks)
        assert len(links) == 3
        twins: list[Links] = [
            ShannonLinks(np.array([3.0])),
            FixedEfficiencyLinks(np.array([2.0])),
            ShannonLinks(np.array([1e6])),
        ]
        b = np.array([1.0, 5.0, 1e4])
        for name in ("rate", "slope", "bandwidth_for"):
            want = [getattr(twin, name)(b[k : k + 1])[0] for k, twin in enumerate(twins)]
            np.testing.assert_array_equal(getattr(links, name)(b), want)
        np.testing.assert_array_equal(links.limit_bps(), [t.limit_bps()[0] for t in twins])
        np.testing.assert_array_equal(links.select(slice(1, 3)).rate(b[1:]), links.rate(b)[1:])

    def test_plainest_class(self) -> None:
        assert isinstance(mixed_links([1.0], [np.nan]), ShannonLinks)
        assert isinstance(mixed_links([np.nan], [1.0]), FixedEfficiencyLinks)

    @pytest.mark.parametrize(("cn0", "eta"), [(np.nan, np.nan), (1.0, 1.0)])
    def test_refuses_both_and_neither(self, cn0: float, eta: float) -> None:
        with pytest.raises(InputError, match=r"cn0_hz\[0\]"):
            mixed_links([cn0], [eta])
