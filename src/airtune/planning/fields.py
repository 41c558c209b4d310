"""Words and ranges for the fields of a problem: what a key may be called and what it may hold."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from airtune.errors import InputError
from airtune.quantities import FloatArray, db_to_linear, dbm_to_watts
from airtune.suggest import closest, suggest

REQUIRED: Any = object()
"""The default of a key that has none."""

LARGEST, SMALLEST = 1e50, 1e-50
"""A number of a problem beyond these is no quantity; within them, products stay finite."""
LOUDEST_DB = 450.0
"""The same for a level in decibels."""


@dataclass(frozen=True)
class Range:
    """An interval of numbers, with the words for it."""

    words: str
    low: float = -np.inf
    high: float = np.inf
    open_low: bool = False
    least: float = SMALLEST
    most: float = LARGEST

    def holds(self, values: ArrayLike) -> Any:
        """Elementwise; NaN is in no range, and a magnitude that no quantity has in none either."""
        v = np.asarray(values, dtype=np.float64)
        inside = ((v > self.low) if self.open_low else (v >= self.low)) & (v <= self.high)
        size = np.abs(v)
        sensible = (size == 0) | np.isinf(v) | ((size >= self.least) & (size <= self.most))
        return inside & sensible

    def refusal(self, value: float) -> str:
        """What is allowed, with the limits of magnitude where those are the reason."""
        size = abs(float(value))
        if np.isfinite(size) and size > self.most:
            return f"{self.words}, of magnitude {self.most:g} at most"
        if 0 < size < self.least:
            return f"{self.words}, of magnitude {self.least:g} at least where it is not 0"
        return self.words


_MAX = float(np.finfo(np.float64).max)
POSITIVE = Range("a number > 0", 0.0, _MAX, open_low=True)
NOT_NEGATIVE = Range("a number >= 0", 0.0, _MAX)
FINITE = Range("a finite number", -_MAX, _MAX)
SHARE = Range("a number from 0 to 1", 0.0, 1.0)
LEVEL = Range("a number of decibels (-.inf: nothing)", -np.inf, _MAX, least=0.0, most=LOUDEST_DB)


def decibel_twin(key: str) -> tuple[str, Callable[[ArrayLike], FloatArray]]:
    """The logarithmic form of a linear key, and its conversion.

    >>> decibel_twin("tx_power_w")[0], decibel_twin("noise_psd_w_hz")[0], decibel_twin("gain")[0]
    ('tx_power_dbm', 'noise_psd_dbm_hz', 'gain_db')
    """
    if key.endswith("_w_hz"):
        return key.removesuffix("_w_hz") + "_dbm_hz", dbm_to_watts
    if key.endswith("_w"):
        return key.removesuffix("_w") + "_dbm", dbm_to_watts
    return key + "_db", db_to_linear


def refuse_unknown(mapping: Iterable[str], known: Sequence[str], where: str) -> None:
    """Raise InputError for a key that is not known, with the nearest known one."""
    for key in mapping:
        if key not in known:
            names = ", ".join(sorted(set(known)))
            field = f"{where}.{key}" if where else str(key)
            raise InputError(field, "an unknown key", f"one of {names}", suggest(key, known))


def misspelt(key: str, present: Collection[str]) -> str:
    """The remedy for a missing key where a present one is similar, for an InputError.

    A key that is there without a value (null) is as good as missing.
    """
    if key in present:
        return "it stands there without a value"
    near = closest(key, map(str, present), likeness=0.8)
    return f"{near} looks like it" if near else ""


def is_number(value: Any) -> bool:
    """A number as YAML or numpy gives it; True is none, nor is 10**400, which no float holds."""
    known = isinstance(value, int | float | np.integer | np.floating)
    return known and not isinstance(value, bool) and is_float(value)


def is_float(value: Any) -> bool:
    """A number that fits a float; 10**400 does not."""
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_word(value: Any) -> bool:
    """A name: text, or a number that stands for one."""
    return isinstance(value, str | int | np.integer) and not isinstance(value, bool)


def number_list(value: Any, label: str, allowed: Range, length: int | None) -> FloatArray:
    """A list of numbers in a range; with a length, one number stands for all."""
    if is_number(value) and length is not None:
        value = [value] * length
    if not isinstance(value, list | tuple | np.ndarray) or not len(value):
        raise InputError(label, value, "a list of numbers")
    for entry in value:
        if not is_number(entry):
            raise InputError(label, entry, allowed.words)
        if not allowed.holds(entry):
            raise InputError(label, entry, allowed.refusal(entry))
    if length is not None and len(value) != length:
        raise InputError(label, f"a list of {len(value)}", f"one number or a list of {length}")
    return np.array(value, dtype=np.float64)
