"""Mean attenuation between a base station and a client, from distance alone."""

import math

import numpy as np
from numpy.typing import ArrayLike

from airtune.quantities import SPEED_OF_LIGHT_M_S, FloatArray

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
