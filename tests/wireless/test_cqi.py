"""The CQI sawtooth against a plain search, and its concave envelope."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.wireless.budget import power_links
from airtune.wireless.cqi import (
    CQI_EFFICIENCY,
    CQI_EFFICIENCY_256QAM,
    CQI_SNR_256QAM_DB,
    CQI_SNR_DB,
    CqiLinks,
)
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


# TS 38.214 Table 5.2.2.1-3, row by row: CQI, modulation order, code rate x 1024, efficiency.
PRINTED_256QAM = [
    (1, 2, 78, 0.1523),
    (2, 2, 193, 0.3770),
    (3, 2, 449, 0.8770),
    (4, 4, 378, 1.4766),
    (5, 4, 490, 1.9141),
    (6, 4, 616, 2.4063),
    (7, 6, 466, 2.7305),
    (8, 6, 567, 3.3223),
    (9, 6, 666, 3.9023),
    (10, 6, 772, 4.5234),
    (11, 6, 873, 5.1152),
    (12, 8, 711, 5.5547),
    (13, 8, 797, 6.2266),
    (14, 8, 885, 6.9141),
    (15, 8, 948, 7.4063),
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


def test_the_table_of_256qam_row_by_row() -> None:
    assert [row[0] for row in PRINTED_256QAM] == list(range(1, 16))
    for (_, order, code_rate, printed), efficiency in zip(
        PRINTED_256QAM, CQI_EFFICIENCY_256QAM, strict=True
    ):
        assert efficiency == order * code_rate / 1024
        # Printed with four digits; 2.40625 as 2.4063.
        assert efficiency == pytest.approx(printed, abs=5.001e-5)
    # Its first eleven rows are rows of the other table, at the same thresholds.
    same = [0, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13]
    np.testing.assert_array_equal(CQI_EFFICIENCY_256QAM[:11], CQI_EFFICIENCY[same])
    np.testing.assert_array_equal(CQI_SNR_256QAM_DB[:11], CQI_SNR_DB[same])
    assert (np.log2(1 + 10 ** (CQI_SNR_256QAM_DB / 10)) > CQI_EFFICIENCY_256QAM).all()


def test_rates_of_the_256qam_table() -> None:
    """Above the last threshold of each table, and just below the first."""
    cn0 = np.array([1e12, 1e6 * 10 ** (CQI_SNR_256QAM_DB[13] / 10), 0.19e6, 0.0])
    band = np.full(4, 1e6)
    rate = power_links("cqi-256qam", cn0).rate(band)
    assert rate[0] == pytest.approx(7.4063e6, rel=1e-4)
    assert rate[1] == pytest.approx(6.9141e6, rel=1e-4)
    # Below the first threshold a part of the band is used, at the CQI that makes most of it.
    peaks = [
        row[3] * 0.19e6 / 10 ** (snr / 10)
        for row, snr in zip(PRINTED_256QAM, CQI_SNR_256QAM_DB, strict=True)
    ]
    assert rate[2] == pytest.approx(max(peaks), rel=3e-4)
    assert rate[3] == 0
    assert power_links("cqi", cn0).rate(band)[0] == pytest.approx(5.5547e6, rel=1e-4)
    links = CqiLinks(cn0[:2], table="256qam")
    assert links.select(np.array([1])).rate(band[:1])[0] == rate[1]
    assert links.scaled(np.array([1.0, 1e-1])).rate(band[:2])[1] < rate[1]
    hull = links.envelope()
    assert (links.rate(band[:2]) <= hull.rate(band[:2]) * (1 + 1e-12)).all()
    wanted = 0.7 * links.limit_bps()
    np.testing.assert_allclose(links.rate(links.bandwidth_for(wanted)), wanted, rtol=1e-12)


def test_thresholds_stay_above_shannon() -> None:
    assert (np.log2(1 + 10 ** (CQI_SNR_DB / 10)) > CQI_EFFICIENCY).all()


MCS_OF_CQI = {4: 4, 5: 6, 6: 8, 7: 11, 8: 13, 9: 15, 10: 18, 11: 20, 12: 22, 13: 24, 14: 26, 15: 28}
"""Rows of the PDSCH's MCS table 1 with the modulation and code rate of each CQI."""
MCS_OF_CQI_256QAM = {12: 21, 13: 23, 14: 25}
"""Of MCS table 2; the simulated curve of CQI 15 (MCS 27) ends at a block error rate of 22 %."""


def simulated_point_db(table: int, mcs: int) -> float:
    """Where Sionna's simulated block error rate passes 10 %, code blocks of 500 bits."""
    spec = importlib.util.find_spec("sionna")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("Sionna is not installed")
    folder = Path(next(iter(spec.submodule_search_locations))) / "sys" / "bler_tables"
    content = json.loads((folder / f"PDSCH_table{table}.json").read_text())
    curve = content["category"]["1"]["index"][str(table)]["MCS"][str(mcs)]
    error, snr_db = np.array(curve["CBS"]["500"]["BLER"]), np.array(curve["SNR_db"])
    low = int(np.argmax(error < 0.1))
    ends = [low, low - 1]
    logs = np.log(np.maximum(error[ends], 1e-9))
    return float(np.interp(np.log(0.1), logs, snr_db[ends]))


def test_thresholds_against_simulated_ldpc() -> None:
    """The claim beside CQI_SNR_DB, recomputed from the tables that ship with Sionna."""
    for cqi, mcs in MCS_OF_CQI.items():
        assert 0.2 < CQI_SNR_DB[cqi - 1] - simulated_point_db(1, mcs) < 0.75, cqi


def test_thresholds_of_256qam_against_simulated_ldpc() -> None:
    for cqi, mcs in MCS_OF_CQI_256QAM.items():
        assert 0.4 < CQI_SNR_256QAM_DB[cqi - 1] - simulated_point_db(2, mcs) < 0.9, cqi


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
