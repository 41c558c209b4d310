"""The earliest common deadline of clients that share a band."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.allocation.bandwidth import common_headroom, minmax_bandwidth, needed_bandwidth
from airtune.quantities import FloatArray
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import FixedEfficiencyLinks, Links, ShannonLinks


def plain_headroom(links: Links, bits: FloatArray, slack_s: FloatArray, band_hz: float) -> float:
    """By bisection: the smallest time at which the needs fit the band."""

    def fits(headroom: float) -> bool:
        with np.errstate(divide="ignore"):
            rate = np.where(bits > 0, bits / (headroom + slack_s), 0.0)
        return float(links.bandwidth_for(rate).sum()) <= band_hz

    high = 1e-9
    while not fits(high):
        high *= 2.0
    low = 0.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def draw_case(seed: int, clients: int) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """cn0, bits, slack and band."""
    draw = np.random.default_rng(seed)
    slack = draw.random(clients) * draw.choice([0.0, 1.0, 100.0])
    slack[draw.integers(clients)] = 0.0
    bits = draw.uniform(1e3, 1e6, clients) * (draw.random(clients) > 0.2)
    return 10 ** draw.uniform(4, 9, clients), bits, slack, 10 ** draw.uniform(4, 7)


@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from(["shannon", "fixed", "cqi"]))
def test_agrees_with_bisection(seed: int, clients: int, kind: str) -> None:
    cn0, bits, slack, band = draw_case(seed, clients)
    links: Links = CqiLinks(cn0) if kind == "cqi" else ShannonLinks(cn0)
    if kind == "fixed":
        links = FixedEfficiencyLinks(np.log10(cn0))
    found = float(common_headroom(links, bits, slack, band))
    assert found == pytest.approx(plain_headroom(links, bits, slack, band), rel=1e-9, abs=1e-8)


@given(st.integers(0, 10_000), st.floats(0.0, 1e3))
def test_a_guess_changes_only_the_way_there(seed: int, guess_s: float) -> None:
    cn0, bits, slack, band = draw_case(seed, 5)
    plain = common_headroom(ShannonLinks(cn0), bits, slack, band)
    guided = common_headroom(ShannonLinks(cn0), bits, slack, band, guess_s)
    assert guided == pytest.approx(plain, rel=1e-10)


def test_plans_together_are_plans_alone() -> None:
    cn0, bits, slack, band = draw_case(3, 6)
    plans = np.array([bits, 2.0 * bits, np.zeros(6), bits[::-1]])
    together = common_headroom(ShannonLinks(cn0), plans, slack, band)
    alone = [float(common_headroom(ShannonLinks(cn0), row, slack, band)) for row in plans]
    assert together == pytest.approx(alone, rel=1e-11)
    assert together[2] == 0.0


def test_many_clients_agree_with_minmax_bandwidth() -> None:
    """More clients than fit one block."""
    draw = np.random.default_rng(0)
    links = ShannonLinks(10 ** draw.uniform(5, 8, 20_000))
    bits, delay = draw.uniform(1e4, 1e5, 20_000), draw.random(20_000)
    slack = delay.max() - delay
    headroom = common_headroom(links, bits, slack, 1e9)
    other = minmax_bandwidth(links, bits, delay, 1e9)
    assert other.objective == pytest.approx(delay.max() + headroom, rel=1e-10)


@given(st.integers(0, 10_000), st.sampled_from([ShannonLinks, FixedEfficiencyLinks]))
def test_fall_is_the_derivative(seed: int, kind: type[ShannonLinks | FixedEfficiencyLinks]) -> None:
    draw = np.random.default_rng(seed)
    links = kind(10 ** draw.uniform(5, 8, 4))
    bits = draw.uniform(1e3, 1e5, 4)
    time_s = bits / (draw.uniform(0.01, 0.9, 4) * np.minimum(links.limit_bps(), 1e7))
    _, fall = needed_bandwidth(links, bits, time_s)
    step = 1e-5 * time_s
    later, sooner = (needed_bandwidth(links, bits, time_s + d)[0] for d in (step, -step))
    assert fall == pytest.approx((sooner - later) / (2.0 * step), rel=1e-6)


def test_no_bits_need_nothing_and_too_many_need_everything() -> None:
    links = ShannonLinks(np.array([1e5, 1e5]))
    band, fall = needed_bandwidth(links, np.array([0.0, 1e9]), np.array([0.0, 1.0]))
    assert band.tolist() == [0.0, np.inf]
    assert fall.tolist() == [0.0, np.inf]
