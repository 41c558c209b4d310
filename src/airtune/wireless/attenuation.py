"""What weakens a link: mean path loss by distance, shadowing by place, fading by round.

Shadowing is log-normal and a map: the same place is always in the same shadow. Fading is Rayleigh
or Rician block fading: one complex gain for a client and a round.
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airtune.quantities import SPEED_OF_LIGHT_M_S, FloatArray
from airtune.seeds import generator

Clients: TypeAlias = NDArray[np.int64] | None
"""Numbers of the clients in question; None: all."""
CELLULAR_INTERCEPT_DB = 128.1
"""Path loss at 1 km of the usual cellular model at 2 GHz (3GPP TR 36.814 A.2.1.1, macro)."""
CELLULAR_SLOPE_DB = 37.6
"""Path loss per decade of distance of the same model; an exponent of 3.76."""


def free_space_db(distance_m: ArrayLike, carrier_hz: float) -> FloatArray:
    """Free-space path loss between isotropic antennas [dB].

    `PL = 20 log10(4 pi d f / c)`, H. T. Friis, "A note on a simple transmission formula", 1946;
    ITU-R P.525. Left out: the near field (d below a few wavelengths).

    Args:
        distance_m: distance, any shape, metres.
        carrier_hz: carrier frequency, hertz.
    """
    distance = np.asarray(distance_m, dtype=np.float64)
    return 20.0 * np.log10(distance) + 20.0 * math.log10(
        4.0 * math.pi * carrier_hz / SPEED_OF_LIGHT_M_S
    )


def log_distance_db(
    distance_m: ArrayLike,
    intercept_db: float = CELLULAR_INTERCEPT_DB,
    slope_db: float = CELLULAR_SLOPE_DB,
) -> FloatArray:
    """Log-distance path loss [dB]: `PL = intercept + slope log10(d / 1 km)`.

    The default constants, 128.1 + 37.6 log10(d_km), are those of 3GPP TR 36.814 Table A.2.1.1-3
    (macro cell, 2 GHz). Left out: any dependence on the carrier; change the intercept for it.

    Args:
        distance_m: distance, any shape, metres.
        intercept_db: path loss at 1 km.
        slope_db: path loss per decade, 10 times the path-loss exponent.
    """
    distance = np.asarray(distance_m, dtype=np.float64)
    return intercept_db + slope_db * np.log10(distance / 1e3)


_WAVES = 512
_CHUNK = 4096


class SpatialField:
    """A zero-mean, unit-variance Gaussian field over the plane with correlation `exp(-d/D)`.

    The exponential correlation is M. Gudmundson's ("Correlation model for shadow fading in mobile
    radio systems", Electronics Letters 1991), also 3GPP TR 38.901 equation 7.4-5, here in two
    dimensions: clients that are close to each other share obstacles, and a client that comes back
    finds the same shadowing. A state is a function of the place only, so no round has to be drawn
    before another.

    The field is a sum of cosines, `S(x) = sqrt(2/M) sum_m cos(k_m x + phi_m)`, M = 512. Directions
    and phases are uniform; the wave numbers follow the spectrum of `exp(-d/D)` in the plane,
    proportional to `(1 + (k D)^2)^(-3/2)`, whose distribution function is
    `F(k) = 1 - (1 + (k D)^2)^(-1/2)`. Mean, variance and correlation are exact over seeds; the
    marginal is Gaussian up to an excess kurtosis of -1.5/M.
    """

    def __init__(self, seed: int, purpose: str, correlation_distance_m: float) -> None:
        draws = generator(seed, purpose).random((3, _WAVES))
        radius = np.sqrt((1.0 - draws[0]) ** -2.0 - 1.0) / correlation_distance_m
        angle = 2.0 * np.pi * draws[1]
        self._wave = radius * np.stack([np.cos(angle), np.sin(angle)])
        self._phase = 2.0 * np.pi * draws[2]

    def at(self, position_m: FloatArray) -> FloatArray:
        """The field [client] at the positions [client, 2]."""
        values = np.empty(len(position_m))
        # In pieces, so that a hundred thousand clients need megabytes and not gigabytes.
        for start in range(0, len(position_m), _CHUNK):
            piece = slice(start, start + _CHUNK)
            x, y = position_m[piece, :1], position_m[piece, 1:]
            # No matrix product: its rounding depends on how many clients there are.
            angle = x * self._wave[0] + y * self._wave[1] + self._phase
            values[piece] = np.cos(angle).sum(axis=1)
        scaled: FloatArray = values * np.sqrt(2.0 / _WAVES)
        return scaled


def doppler_hz(speed_m_s: float, carrier_hz: float) -> float:
    """Largest Doppler shift of a moving client: `f_d = v f / c`."""
    return speed_m_s * carrier_hz / SPEED_OF_LIGHT_M_S


def jakes_correlation(doppler: float, interval_s: float) -> float:
    """Correlation of the complex gain over an interval: `J0(2 pi f_d T)`, between -0.403 and 1.

    Clarke's isotropic scattering (W. C. Jakes, "Microwave Mobile Communications", 1974, 1.1): 1 for
    a client that stands still, near 0 once it has moved a few wavelengths.
    """
    from scipy.special import j0

    return float(j0(2.0 * math.pi * doppler * interval_s))


class BlockFading:
    """Power gain of unit mean, constant within a round and correlated from round to round.

    `h = sqrt(K/(K+1)) e^(j theta) + sqrt(1/(K+1)) s`, gain `|h|^2`, with the scattered part
    `s(t) = rho s(t-1) + sqrt(1 - rho^2) w(t)`, w and s(0) standard complex normal: Rayleigh for
    K = 0, else Rician with factor K (J. Proakis, "Digital Communications", 13.1). The correlation
    of s at lag k is rho^k: equal to Jakes' at lag 1; at higher lags it lacks his ripple. Left out:
    the Doppler shift of the direct path, which is taken as corrected by the receiver.

    The state of round t depends on (seed, t) alone: it is rolled forward from round 0, whatever was
    asked before, and adding clients at the end changes none of those before.
    """

    def __init__(self, seed: int, clients: int, correlation: float, rician_k: float = 0.0) -> None:
        """`correlation` is rho in [-1, 1]; `rician_k` is the linear Rician factor, 0: Rayleigh."""
        self._seed, self._clients, self._correlation = seed, clients, correlation
        phase = 2.0 * np.pi * generator(seed, "fading phase").random(clients)
        self._direct = math.sqrt(rician_k / (rician_k + 1.0)) * np.exp(1j * phase)
        self._scattered_share = math.sqrt(1.0 / (rician_k + 1.0))
        self._round = 0
        self._scattered = self._innovation(0)

    def power_gain(self, round_index: int, clients: Clients = None) -> FloatArray:
        """|h|^2 [client], mean 1: of all clients, which are drawn together."""
        gain = self._direct + self._scattered_share * self._scattered_at(round_index)
        power: FloatArray = gain.real**2 + gain.imag**2
        return power

    def _scattered_at(self, round_index: int) -> NDArray[np.complex128]:
        if self._correlation == 0.0:
            return self._innovation(round_index)
        if round_index < self._round:
            self._round, self._scattered = 0, self._innovation(0)
        fresh_share = math.sqrt(1.0 - self._correlation**2)
        if fresh_share == 0.0 and self._correlation > 0:
            return self._scattered
        for step in range(self._round + 1, round_index + 1):
            self._scattered = self._correlation * self._scattered + fresh_share * self._innovation(
                step
            )
        self._round = round_index
        return self._scattered

    def _innovation(self, round_index: int) -> NDArray[np.complex128]:
        draws = generator(self._seed, "fading", round_index).standard_normal((self._clients, 2))
        normal: NDArray[np.complex128] = draws.view(np.complex128)[:, 0] / math.sqrt(2.0)
        return normal


class NoFading:
    """A power gain of exactly 1."""

    def __init__(self, clients: int) -> None:
        self._clients = clients

    def power_gain(self, round_index: int, clients: Clients = None) -> FloatArray:
        """1 [client]."""
        return np.ones(self._clients)
