"""Channels as a run meets them: reproducible, in both directions, as true and as known."""

from typing import Any

import numpy as np
import pytest

from airtune.errors import InputError
from airtune.wireless.cell import CellSettings
from airtune.wireless.channel import Channel, channel_source, open_channel
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import ShannonLinks
from airtune.wireless.state import NO_CLIENTS
from airtune.wireless.tr38901 import GROUP, Drop, Scenario
from tests.wireless.states import MACRO, equal, same

KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "uma": {"path_loss": "uma", "speed_m_s": 3.0},
    "rma standing": {"path_loss": "rma", "speed_m_s": 0.0, "radius_m": 2000.0},
    "umi blocks": {"fading_correlation": 0, "csi_error_db": 2.0, "csi_delay_rounds": 2},
    "umi rayleigh": {"fading": "rayleigh"},
    "macro": {**MACRO, "csi_error_db": 1.0},
    "macro slow": {**MACRO, "speed_m_s": 0.01, "round_interval_s": 1.0, "csi_delay_rounds": 3},
    "rician": {**MACRO, "fading": "rician", "shadowing_db": 4.0},
    "free space": {"path_loss": "free_space", "fading": "none"},
}


def make(clients: int = 4, seed: int = 7, **settings: Any) -> Channel:
    return open_channel(CellSettings(**settings), clients, seed)


@pytest.mark.parametrize("kind", list(KINDS))
def test_round_does_not_depend_on_what_was_asked_before(kind: str) -> None:
    channel = make(**KINDS[kind])
    forward = [channel.observe(index) for index in range(7)]
    for index in (6, 1, 4, 4, 0):
        assert equal(channel.observe(index), forward[index])
    assert equal(make(**KINDS[kind]).observe(5), forward[5])


@pytest.mark.parametrize("kind", list(KINDS))
def test_more_clients_change_none_of_the_first(kind: str) -> None:
    few, many = make(3, **KINDS[kind]), make(20, **KINDS[kind])
    assert len(many.observe(4).truth) == 20
    assert equal(many.observe(4), few.observe(4), 3)


@pytest.mark.parametrize("kind", list(KINDS))
def test_asking_for_some_clients_changes_nobody(kind: str) -> None:
    clients, some = 40, np.array([3, 18, 39])
    whole = make(clients, **KINDS[kind])
    for index in (0, 5):
        expected, found = whole.observe(index), make(clients, **KINDS[kind]).observe(index, some)
        for seen, full in ((found.truth, expected.truth), (found.estimate, expected.estimate)):
            assert np.array_equal(seen.gain[some], full.gain[some])
            assert np.array_equal(seen.fading_gain[some], full.fading_gain[some])
            assert np.array_equal(seen.position_m, full.position_m)
            assert np.array_equal(seen.path_loss_db, full.path_loss_db)
    # In any order, and whatever was asked before.
    partly = make(clients, **KINDS[kind])
    for asked in (some, np.array([17]), np.array([], dtype=np.int64), None, some):
        fresh = make(clients, **KINDS[kind]).observe(2, asked)
        assert equal(partly.observe(2, asked), fresh)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clients' rays each call draws."""
    counts: list[int] = []
    real = Scenario.impulse_response

    def counted(self: Scenario, drop: Drop, elapsed_s: float, seeds: Any, places: Any) -> Any:
        counts.append(len(drop.position_m))
        return real(self, drop, elapsed_s, seeds, places)

    monkeypatch.setattr(Scenario, "impulse_response", counted)
    return counts


def test_only_the_clients_asked_for_are_drawn(drawn: list[int]) -> None:
    channel = make(20 * GROUP, speed_m_s=0.0)
    first = channel.observe(0, np.array([GROUP, GROUP + 3, 5 * GROUP])).truth.gain
    assert np.count_nonzero(~np.isnan(first)) == 3
    # Standing clients keep their rays: only the client that is new is drawn in the next round.
    channel.observe(1, np.array([GROUP, 7 * GROUP]))
    channel.observe(2, NO_CLIENTS)
    assert drawn == [3, 1]


@pytest.mark.parametrize("speed_m_s", [0.0, 0.83, 6.0])
def test_rays_drawn_ahead_are_those_of_their_rounds(speed_m_s: float) -> None:
    """Of several rounds and clients in one call, to the bit; whatever is observed first."""
    clients, rounds = 2 * GROUP + 5, 5
    settings = CellSettings(speed_m_s=speed_m_s)
    each = open_channel(settings, clients, 3)
    together = open_channel(settings, clients, 3, kept={}, until=rounds)
    for index in (1, 0, 4, 2, 3, rounds):
        assert equal(together.observe(index), each.observe(index))
    some = np.array([2, GROUP, 2 * GROUP + 4])
    assert equal(together.observe(3, some), open_channel(settings, clients, 3).observe(3, some))


def test_no_round_is_drawn_beyond_the_last(drawn: list[int]) -> None:
    channel = open_channel(CellSettings(speed_m_s=6.0), 3, 3, kept={}, until=4)
    for index in range(6):
        channel.observe(index)
    assert drawn == [12, 3, 3]


@pytest.mark.parametrize("kind", list(KINDS))
def test_another_seed_is_another_cell(kind: str) -> None:
    assert not same(
        make(**KINDS[kind]).observe(2).truth, make(seed=8, **KINDS[kind]).observe(2).truth
    )


@pytest.mark.parametrize("kind", list(KINDS))
def test_gain_is_what_its_parts_say(kind: str) -> None:
    gains: dict[str, Any] = {"antenna_gain_dbi": 2.0, "bs_antenna_gain_dbi": 7.0}
    truth = make(**KINDS[kind], **gains).observe(3).truth
    loss_db = 9.0 - truth.path_loss_db - truth.shadowing_db
    assert truth.gain == pytest.approx(10 ** (loss_db / 10) * truth.fading_gain, rel=1e-12)
    assert truth.without_fading().gain == pytest.approx(10 ** (loss_db / 10), rel=1e-12)
    assert np.all(truth.gain > 0)
    assert truth.out_of_reach() == {}


def test_only_tr38901_knows_line_of_sight() -> None:
    assert make(**KINDS["macro"]).observe(0).truth.line_of_sight is None
    sight = make(60).observe(0).truth.line_of_sight
    assert sight is not None
    assert 0 < sight.mean() < 1


def test_standing_clients_keep_their_channel_and_walking_ones_do_not() -> None:
    standing, walking = make(speed_m_s=0.0), make(speed_m_s=1.0)
    assert np.array_equal(standing.observe(0).truth.gain, standing.observe(50).truth.gain)
    first, second = walking.observe(0).truth, walking.observe(1).truth
    assert np.all(first.fading_gain != second.fading_gain)
    assert np.hypot(*(second.position_m - first.position_m).T) == pytest.approx(np.full(4, 10.0))


def test_blocks_of_standing_clients_differ_in_fading_only() -> None:
    channel = make(speed_m_s=0.0, fading_correlation=0)
    first, second = channel.observe(0).truth, channel.observe(1).truth
    assert np.array_equal(first.path_loss_db, second.path_loss_db)
    assert np.array_equal(first.shadowing_db, second.shadowing_db)
    assert np.all(first.fading_gain != second.fading_gain)


def test_constant_fading_of_walking_clients() -> None:
    channel = make(speed_m_s=1.0, fading_correlation=1, carrier_hz=3.5e9)
    first, second = channel.observe(0).truth, channel.observe(1).truth
    assert first.line_of_sight is not None
    assert second.line_of_sight is not None
    steady = first.line_of_sight == second.line_of_sight
    assert steady.any()
    assert np.array_equal(first.fading_gain[steady], second.fading_gain[steady])
    assert np.all(first.path_loss_db != second.path_loss_db)


def test_rays_are_kept_along_a_stretch_and_renewed_after_it() -> None:
    """At 0.1 mm a round the rays turn slowly for 120 000 rounds; then there are new ones."""
    channel = make(30, speed_m_s=1e-4, round_interval_s=1.0)
    at = {index: channel.observe(index).truth for index in (50000, 50001, 119999, 120001)}
    steady = at[119999].line_of_sight == at[120001].line_of_sight
    within = np.abs(np.log(at[50000].fading_gain / at[50001].fading_gain))
    across = np.abs(np.log(at[119999].fading_gain / at[120001].fading_gain))[steady]
    assert np.median(within) < 0.02
    assert np.median(across) > 0.1


@pytest.mark.parametrize("way", [0.7, 3.0, 8.3, 12.0, 12.5, 40.0, 0.1 + 0.2])
def test_a_stretch_starts_at_its_first_round(way: float) -> None:
    from airtune.wireless.propagation import stretch_start

    for index in range(200):
        stretch = np.floor(way * index / 12.0)
        first = min(j for j in range(index + 1) if np.floor(way * j / 12.0) == stretch)
        assert stretch_start(index, way, 12.0) == first


def test_shadowing_setting_replaces_the_models_own() -> None:
    rows = {given: make(400, shadowing_db=given).observe(0).truth for given in (0.0, 2.0, 4.0)}
    assert np.all(rows[0.0].shadowing_db == 0)
    assert rows[4.0].shadowing_db == pytest.approx(2 * rows[2.0].shadowing_db)
    assert rows[2.0].shadowing_db.std() == pytest.approx(2.0, rel=0.3)


def test_uplink_and_downlink_by_hand() -> None:
    channel = make(
        tx_power_dbm=20,
        bs_tx_power_dbm=40,
        noise_figure_db=5,
        interference_margin_db=1,
        client_noise_figure_db=8,
        implementation_margin_db=3,
        **MACRO,
    )
    truth = channel.observe(2).truth
    band = np.array([1e6, 2e6, 3e6, 20e6])
    up = 0.1 * truth.gain / (10 ** (-16.8) * 1e-3)
    assert truth.uplink_cn0_hz() == pytest.approx(up)
    assert truth.uplink().rate(band) == pytest.approx(
        band * np.log2(1 + up / 10**0.3 / band), rel=1e-9
    )
    down = 10.0 * truth.gain / (10 ** (-16.5) * 1e-3)
    assert truth.downlink().rate(band) == pytest.approx(
        band * np.log2(1 + down / 10**0.3 / band), rel=1e-9
    )
    power = np.array([0.1, 0.2, 0.05, 1.0])
    assert truth.uplink(power).rate(band) == pytest.approx(
        band * np.log2(1 + power / 0.1 * up / 10**0.3 / band), rel=1e-9
    )


def test_fading_settings_choose_the_distribution() -> None:
    from scipy import stats

    def gains(**settings: Any) -> np.ndarray:
        return make(4000, **MACRO, **settings).observe(3).truth.fading_gain

    assert stats.kstest(gains(fading="rayleigh"), "expon").pvalue > 1e-3
    rician = stats.ncx2(2, 2 * 10**0.9)
    scale = 2 * (10**0.9 + 1)
    assert stats.kstest(gains(fading="rician", rician_k_db=9.0) * scale, rician.cdf).pvalue > 1e-3
    assert np.array_equal(gains(fading="none"), np.ones(4000))


def test_fading_correlation_follows_speed_carrier_and_interval() -> None:
    from scipy.special import j0

    channel = make(4000, **{**MACRO, "carrier_hz": 6e9}, speed_m_s=0.5, round_interval_s=0.02)
    first, second = (channel.observe(index).truth.fading_gain for index in (3, 4))
    # A way of 1 cm against a wavelength of 5 cm; power correlates by the square.
    expected = j0(2 * np.pi * 0.5 * 0.02 * 6e9 / 299792458.0) ** 2
    assert 0.3 < expected < 0.5
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(expected, abs=0.05)


def test_rate_model_chooses_the_links() -> None:
    shannon, cqi = (make(rate_model=name, **MACRO).observe(0).truth for name in ("shannon", "cqi"))
    assert isinstance(shannon.uplink(), ShannonLinks)
    assert isinstance(cqi.uplink(), CqiLinks)
    assert isinstance(cqi.downlink(), CqiLinks)
    band = np.full(4, 2e6)
    assert np.all(cqi.uplink().rate(band) < shannon.uplink().rate(band))


def test_perfect_knowledge_is_the_truth() -> None:
    seen = make(**MACRO).observe(3)
    assert same(seen.truth, seen.estimate)


@pytest.mark.parametrize("error_db", [0.5, 3.0])
def test_error_of_the_estimate_is_normal_in_decibels(error_db: float) -> None:
    from scipy import stats

    channel = make(3000, csi_error_db=error_db, **MACRO)
    errors = []
    for index in (0, 1):
        seen = channel.observe(index)
        assert np.array_equal(seen.truth.path_loss_db, seen.estimate.path_loss_db)
        errors.append(10 * np.log10(seen.estimate.gain / seen.truth.gain))
        assert stats.kstest(errors[-1] / error_db, "norm").pvalue > 1e-3
    assert errors[0].std() == pytest.approx(error_db, rel=0.05)
    assert abs(np.corrcoef(errors)[0, 1]) < 0.06


def test_error_leaves_the_truth_alone() -> None:
    assert same(make(csi_error_db=3.0).observe(4).truth, make().observe(4).truth)


def test_stale_estimate_is_an_earlier_truth() -> None:
    channel = make(csi_delay_rounds=3, **MACRO)
    truths = [channel.observe(index).truth for index in range(8)]
    for index in range(8):
        estimate = channel.observe(index).estimate
        assert estimate.round_index == max(index - 3, 0)
        assert same(estimate, truths[max(index - 3, 0)])
    assert not same(channel.observe(7).estimate, truths[7])


def test_the_source_of_a_channel_is_named_with_its_version() -> None:
    drawn = channel_source(CellSettings())
    assert drawn.startswith("3GPP TR 38.901 V19.2 umi, by sionna-no-rt 2.")
    trace = CellSettings(trace="a.csv", trace_bandwidth_hz=1e7)
    assert channel_source(trace) == "measured throughput"
    assert channel_source(CellSettings(replay="a.csv")) == "a recording"


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"round is -1"):
        make(**MACRO).observe(-1)
    with pytest.raises(InputError, match=r"clients\.count is 0"):
        make(0, **MACRO)


def test_only_tr38901_needs_torch_and_sionna() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from airtune.wireless.cell import CellSettings as C;"
        "from airtune.wireless.channel import open_channel as o;"
        "o(C(path_loss='log_distance'), 3, 1).observe(2);"
        "sys.exit(bool({'torch', 'sionna'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
