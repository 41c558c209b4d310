"""Log-normal shadowing as a map: the same place is always in the same shadow."""

import numpy as np

from airtune.quantities import FloatArray
from airtune.seeds import generator

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
