"""Rayleigh and Rician block fading: one complex gain for a client and a round."""

import math

import numpy as np
from numpy.typing import NDArray

from airtune.quantities import SPEED_OF_LIGHT_M_S, FloatArray
from airtune.seeds import generator
from airtune.wireless.state import Clients


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
