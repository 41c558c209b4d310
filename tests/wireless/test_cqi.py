"""The CQI sawtooth against a plain search, and its concave envelope."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.wireless.cqi import CQI_EFFICIENCY, CQI_SNR_DB, CqiLinks
from airtune.wireless.rate import ShannonLinks

# TS 38.214 Table 5.2.2.1-2, the printed column "efficiency".
PRINTED = [
    0.1523,
    0.2344,
    0.3770,
    0.6016,
    0.8770,
    1.1758,
    1.4766,
    1.9141,
    2.4063,
    2.7305,
    3.3223,
    3.9023,
    4.5234,
    5.1152,
    5.5547,
]


def sawtooth(bandwidth: float, cn0: float) -> float:
    """The whole bandwidth in use: walk down the table."""
    for efficiency, snr_db in zip(PRINTED[::-1], CQI_SNR_DB[::-1], strict=True):
        if bandwidth > 0 and cn0 / bandwidth >= 10 ** (snr_db / 10) * (1 - 1e-9):
            return efficiency * bandwidth
    return 0.0


def plain_rate(bandwidth: float, cn0: float) -> float:
    """The best part of the bandwidth: all of it, or just up to one of the drops."""
    drops = [cn0 / 10 ** (snr_db / 10) for snr_db in CQI_SNR_DB]
    return max(sawtooth(part, cn0) for part in [bandwidth, *drops] if part <= bandwidth)


def test_efficiencies_are_the_printed_ones() -> None:
    np.testing.assert_allclose(CQI_EFFICIENCY, PRINTED, atol=5e-5)


def test_thresholds_stay_above_shannon() -> None:
    assert (np.log2(1 + 10 ** (CQI_SNR_DB / 10)) > CQI_EFFICIENCY).all()


def test_thresholds_against_simulated_ldpc() -> None:
    """The claim beside CQI_SNR_DB, recomputed from the tables that ship with Sionna."""
    spec = importlib.util.find_spec("sionna")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("Sionna is not installed")
    folder = Path(next(iter(spec.submodule_search_locations))) / "sys" / "bler_tables"
    table = json.loads((folder / "PDSCH_table1.json").read_text())
    mcs_of_cqi = {
        4: 4,
        5: 6,
        6: 8,
        7: 11,
        8: 13,
        9: 15,
        10: 18,
        11: 20,
        12: 22,
        13: 24,
        14: 26,
        15: 28,
    }
    for cqi, mcs in mcs_of_cqi.items():
        curve = table["category"]["1"]["index"]["1"]["MCS"][str(mcs)]
        error, snr_db = np.array(curve["CBS"]["500"]["BLER"]), np.array(curve["SNR_db"])
        low = int(np.argmax(error < 0.1))
        ends = [low, low - 1]
        logs = np.log(np.maximum(error[ends], 1e-9))
        point = np.interp(np.log(0.1), logs, snr_db[ends])
        assert 0.2 < CQI_SNR_DB[cqi - 1] - point < 0.75, cqi


@given(st.floats(-8, 3), st.floats(-30, 30))
def test_rate_is_the_table(log_share: float, log_cn0: float) -> None:
    cn0 = 10.0**log_cn0
    bandwidth = 10.0**log_share * cn0
    got = CqiLinks(np.array([cn0])).rate(np.array([bandwidth]))[0]
    assert got == pytest.approx(plain_rate(bandwidth, cn0), rel=1e-3)


@given(st.floats(0.001, 0.999))
def test_inverse_is_the_smallest_bandwidth(fraction: float) -> None:
    links = CqiLinks(np.array([1e6]), margin=1.0)
    rate = fraction * links.limit_bps()
    bandwidth = links.bandwidth_for(rate)
    assert links.rate(bandwidth)[0] == pytest.approx(rate[0], rel=1e-12)
    narrower = np.linspace(0, 1, 4001)[:-1] * bandwidth
    assert max(links.rate(narrower)) < rate[0]


def test_inverse_at_every_tooth() -> None:
    snr = 10 ** (CQI_SNR_DB / 10)
    links = CqiLinks(np.ones(15))
    at_peak = links.rate(1 / snr)
    best = np.maximum.accumulate((CQI_EFFICIENCY / snr)[::-1])[::-1]
    np.testing.assert_allclose(at_peak, best, rtol=1e-11)
    assert all(sawtooth(1 / x * (1 + 1e-6), 1.0) < sawtooth(1 / x, 1.0) for x in snr)
    # At the highest tooth of all the rest of the bandwidth stays unused.
    np.testing.assert_allclose(links.rate(np.full(15, 1e9)), max(at_peak), rtol=1e-11)
    np.testing.assert_array_equal(links.slope(np.full(15, 1e9)), 0.0)
    np.testing.assert_allclose(links.rate(links.bandwidth_for(at_peak)), at_peak, rtol=1e-11)


def test_limits() -> None:
    links = CqiLinks(np.array([5.0, 0.0]))
    np.testing.assert_array_equal(links.rate(np.zeros(2)), 0.0)
    np.testing.assert_array_equal(links.rate(np.full(2, np.inf)), links.limit_bps())
    np.testing.assert_array_equal(links.bandwidth_for(np.zeros(2)), 0.0)
    np.testing.assert_array_equal(links.bandwidth_for(links.limit_bps() * 1.001 + 1e-9), np.inf)
    assert np.isfinite(links.bandwidth_for(links.limit_bps() * (1 - 1e-12))[0])
    assert links.limit_bps()[0] < ShannonLinks(np.array([5.0])).limit_bps()[0]
    np.testing.assert_array_equal(links.slope(np.full(2, 1e-3)), [CQI_EFFICIENCY[-1], 0.0])


def test_margin_and_selection() -> None:
    links, one = CqiLinks(np.array([1e6, 2e6]), margin=2.0), CqiLinks(np.array([1e6]))
    assert links.select(np.array([1])).rate(np.array([1e5]))[0] == one.rate(np.array([1e5]))[0]
    envelope = links.envelope().select(np.array([1]))
    assert envelope.limit_bps() == pytest.approx(one.limit_bps())


class TestEnvelope:
    def test_lies_above_the_sawtooth_and_touches_it(self) -> None:
        saw = CqiLinks(np.array([3e5]))
        hull = saw.envelope()
        bandwidth = np.geomspace(1.0, 1e8, 20_001)
        rate, bound = saw.rate(bandwidth), hull.rate(bandwidth)
        assert (rate <= bound * (1 + 1e-11)).all()
        corners = hull.cn0_hz[0] * hull.width[1:]
        np.testing.assert_allclose(saw.rate(corners), hull.rate(corners), rtol=1e-11)
        assert len(corners) >= 5

    def test_is_concave_and_inverts(self) -> None:
        hull = CqiLinks(np.array([3e5])).envelope()
        bandwidth = np.linspace(0, hull.cn0_hz[0] * hull.width[-1], 2001)
        rate = hull.rate(bandwidth)
        assert (np.diff(rate, 2) <= 1e-7).all()
        np.testing.assert_allclose(hull.bandwidth_for(rate), bandwidth, rtol=1e-9)
        assert hull.bandwidth_for(hull.limit_bps() * 1.001)[0] == np.inf
        assert hull.rate(np.array([np.inf]))[0] == hull.limit_bps()[0]

    def test_slope_is_the_piece(self) -> None:
        hull = CqiLinks(np.array([3e5, 0.0])).envelope()
        assert hull.slope(np.zeros(2)) == pytest.approx([CQI_EFFICIENCY[-1], 0.0])
        assert (hull.slope(np.full(2, np.inf)) == 0).all()
        np.testing.assert_array_equal(hull.bandwidth_for(np.array([0.0, 1.0])), [0.0, np.inf])
