"""Units, decibels, physical constants, and the usual ranges of quantities.

Bare names are linear SI; `_db` and `_dbm` mark logarithmic values. Convert at the edge only.

A value outside its usual range is most often a slip of units: it is refused with a sentence that
names the unit; a user who means it names its key in `unusual_values` beside it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airtune.errors import InputError

FloatArray: TypeAlias = NDArray[np.float64]

SPEED_OF_LIGHT_M_S = 299_792_458.0
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


@dataclass(frozen=True)
class UsualRange:
    """From `low` to `high`, both included, and `or_zero` where 0 switches something off.

    `hint` names the unit in which the value is read, with an example. A value that is meant may be
    a billion times less or more, or 300 dB of a quantity in `decibels`: the arithmetic holds there.
    """

    low: float
    high: float
    hint: str
    or_zero: bool = False
    decibels: bool = False

    def holds(self, value: float) -> bool:
        """Whether the value is usual."""
        return self.low <= value <= self.high or (self.or_zero and value == 0)

    def within_reach(self, value: float) -> bool:
        """Whether a value that is meant can be computed with."""
        if self.decibels:
            return self.low - 300.0 <= value <= self.high + 300.0
        return self.low * 1e-9 <= value <= self.high * 1e9 or self.holds(value)

    @property
    def words(self) -> str:
        """The range for a message."""
        zero = "0 or " * self.or_zero
        return f"{zero}from {self.low:g} to {self.high:g}, which is usual"


SERVER_FLOP_RATE = UsualRange(1e9, 1e19, "it is read in FLOP/s: 1e13 for 10 TFLOP/s")
"""Of a server that trains, alone or many machines together."""


def refuse_unusual(
    field: str,
    value: float,
    usual: UsualRange,
    where: str,
    meant: Collection[str] = (),
) -> None:
    """Refuse a value outside its usual range, unless its key is among those that are `meant`.

    Args:
        field: the whole name for the message, such as `cell.bandwidth_hz`.
        where: the name of the list that holds `meant`, such as `cell.unusual_values`.
    """
    key = field.split(" ")[0].rpartition(".")[2]
    if key in meant and not usual.within_reach(value):
        raise InputError(field, value, "a billion times (or 300 dB) off its usual range at most")
    if not usual.holds(value) and key not in meant:
        remedy = f"{usual.hint}; if you mean it, list {key} in {where}"
        raise InputError(field, value, usual.words, remedy)


def read_meant(value: object, known: Collection[str], field: str) -> tuple[str, ...]:
    """The keys of a list `unusual_values`; one may stand alone. InputError for an unknown one."""
    names = () if value is None else (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise InputError(field, value, f"a list of keys among {', '.join(known)}")
    for name in names:
        if name not in known:
            raise InputError(field, name, f"a list of keys among {', '.join(known)}")
    return tuple(names)
