"""Units, decibels and physical constants.

Bare names are linear SI; `_db` and `_dbm` mark logarithmic values. Convert at the edge only.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray: TypeAlias = NDArray[np.float64]

SPEED_OF_LIGHT_M_S = 299_792_458.0
"""Exact, SI."""
BOLTZMANN_J_K = 1.380649e-23
"""Exact, SI."""
THERMAL_NOISE_PSD_DBM_HZ = -174.0
"""k T at 290 K is -173.98 dBm/Hz; -174 is the value 3GPP link budgets use (TR 38.901, 36.942)."""


def db_to_linear(value_db: ArrayLike) -> FloatArray:
    """A power ratio from decibels: 10^(x/10); inf where a float does not hold it."""
    with np.errstate(over="ignore"):
        return np.power(10.0, np.asarray(value_db, dtype=np.float64) / 10.0)


def linear_to_db(ratio: ArrayLike) -> FloatArray:
    """A power ratio in decibels: 10 log10(x); a ratio of zero is -inf dB."""
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(np.asarray(ratio, dtype=np.float64))


def dbm_to_watts(value_dbm: ArrayLike) -> FloatArray:
    """Power in watts from decibel-milliwatts; also W/Hz from dBm/Hz."""
    return db_to_linear(value_dbm) * 1e-3


def watts_to_dbm(value_w: ArrayLike) -> FloatArray:
    """Power in decibel-milliwatts from watts; also dBm/Hz from W/Hz."""
    return linear_to_db(np.asarray(value_w, dtype=np.float64) * 1e3)


def format_quantity(value: float, unit: str, digits: int = 3) -> str:
    """A readable number, with an SI prefix: `format_quantity(4.7e6, "bit")` is `'4.7 Mbit'`."""
    value = float(value)
    if value == 0 or not np.isfinite(value):
        return f"{value:g} {unit}"
    prefixes = ["n", "µ", "m", "", "k", "M", "G", "T", "P", "E"]
    # Rounding first, so that 999.9996 becomes 1 k and not 1000.
    rounded = float(f"{value:.{digits}g}")
    power = int(np.clip(np.floor(np.log10(abs(rounded)) / 3), -3, len(prefixes) - 4))
    return f"{rounded / 10.0 ** (3 * power):.{digits}g} {prefixes[power + 3]}{unit}"


def format_duration(seconds: float) -> str:
    """A readable duration: `'0.31 s'`, `'4 min 10 s'`, `'3 h 07 min'`."""
    if not np.isfinite(seconds) or seconds < 99.5:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"
