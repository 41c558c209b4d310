"""Fading against the distributions and the correlation that the textbooks give."""

import numpy as np
import pytest
from scipy import special, stats

from airtune.wireless.attenuation import BlockFading, NoFading, doppler_hz, jakes_correlation

CLIENTS = 4000


def _gains(correlation: float, rounds: int, rician_k: float = 0.0, seed: int = 5) -> np.ndarray:
    fading = BlockFading(seed, CLIENTS, correlation, rician_k)
    return np.stack([fading.power_gain(index) for index in range(rounds)])


def test_doppler_of_a_walker() -> None:
    # 3 km/h at 3.6 GHz: 0.8333 m/s over a wavelength of 8.328 cm.
    assert doppler_hz(3 / 3.6, 3.6e9) == pytest.approx(10.007, abs=1e-3)


def test_jakes_correlation_is_the_mean_phasor_of_isotropic_scattering() -> None:
    doppler, interval = 7.0, 0.03
    angles = 2 * np.pi * (np.arange(1000) + 0.5) / 1000
    phasors = np.exp(2j * np.pi * doppler * interval * np.cos(angles))
    assert jakes_correlation(doppler, interval) == pytest.approx(phasors.mean().real, abs=1e-12)
    assert jakes_correlation(0.0, 10.0) == 1.0
    # First zero of J0 at 2.405.
    assert jakes_correlation(1.0, 2.404825557695773 / (2 * np.pi)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("correlation", [0.0, 0.9, -0.3])
def test_rayleigh_power_is_exponential_of_mean_one(correlation: float) -> None:
    for gain in _gains(correlation, 6)[[0, 5]]:
        assert stats.kstest(gain, "expon").pvalue > 1e-3
        assert gain.mean() == pytest.approx(1.0, abs=4 / np.sqrt(CLIENTS))


@pytest.mark.parametrize("rician_k", [1.0, 10.0])
def test_rician_power_is_a_noncentral_chi_square(rician_k: float) -> None:
    gain = _gains(0.7, 4, rician_k)[3]
    # |h|^2 2 (K+1) has two degrees of freedom and noncentrality 2 K.
    law = stats.ncx2(2, 2 * rician_k)
    assert stats.kstest(gain * 2 * (rician_k + 1), law.cdf).pvalue > 1e-3
    assert gain.mean() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("travel", [0.05, 0.2, 0.45])
def test_power_of_successive_rounds_correlates_as_jakes_says(travel: float) -> None:
    """The power of Rayleigh fading correlates by the square of the gain's correlation."""
    expected = special.j0(2 * np.pi * travel)
    correlation = jakes_correlation(travel, 1.0)
    gains = _gains(correlation, 12)
    measured = np.mean([np.corrcoef(gains[i], gains[i + 1])[0, 1] for i in range(11)])
    assert measured == pytest.approx(expected**2, abs=0.03)


def test_complex_gain_has_the_signed_correlation() -> None:
    correlation = jakes_correlation(0.55, 1.0)
    assert correlation < -0.3
    fading = BlockFading(5, CLIENTS, correlation)
    first, second = fading._scattered_at(3), fading._scattered_at(4)
    measured = np.mean(second * first.conj())
    assert measured.real == pytest.approx(correlation, abs=0.05)
    assert measured.imag == pytest.approx(0.0, abs=0.05)


def test_limits_are_independent_blocks_and_a_constant_channel() -> None:
    independent, constant = _gains(0.0, 3), _gains(1.0, 3)
    assert abs(np.corrcoef(independent[0], independent[1])[0, 1]) < 0.05
    assert np.array_equal(constant[0], constant[2])
    assert not np.array_equal(constant[0], _gains(1.0, 1, seed=6)[0])


@pytest.mark.parametrize("correlation", [0.0, 0.8, 1.0, -1.0])
def test_state_does_not_depend_on_what_was_asked_before(correlation: float) -> None:
    fading = BlockFading(5, 10, correlation, 2.0)
    forward = [fading.power_gain(index) for index in range(8)]
    for index in (7, 2, 5, 5, 0):
        assert np.array_equal(fading.power_gain(index), forward[index])
        assert np.array_equal(
            BlockFading(5, 10, correlation, 2.0).power_gain(index), forward[index]
        )


def test_more_clients_change_none_of_the_first() -> None:
    few, many = BlockFading(5, 3, 0.8, 2.0), BlockFading(5, 50, 0.8, 2.0)
    assert np.array_equal(many.power_gain(4)[:3], few.power_gain(4))


def test_a_fast_recursion_equals_the_plain_sum() -> None:
    """s(t) written out: rho^t s(0) + sqrt(1 - rho^2) sum_k rho^(t-k) w(k)."""
    rho, at = 0.6, 5
    fading = BlockFading(5, 8, rho)
    draws = [fading._innovation(index) for index in range(at + 1)]
    plain = rho**at * draws[0]
    for step in range(1, at + 1):
        plain = plain + np.sqrt(1 - rho**2) * rho ** (at - step) * draws[step]
    assert fading.power_gain(at) == pytest.approx(np.abs(plain) ** 2, rel=1e-12)


def test_no_fading_is_one() -> None:
    assert np.array_equal(NoFading(3).power_gain(7), np.ones(3))
