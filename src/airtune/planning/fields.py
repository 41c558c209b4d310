"""The fields of a problem: words and ranges, and the clients as columns of numbers.

Every refusal names the field and, of a column, the client.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from airtune.errors import InputError
from airtune.quantities import FloatArray, db_to_linear, dbm_to_watts
from airtune.suggest import closest, suggest
from airtune.wireless.rate import FixedEfficiencyLinks, MixedLinks, ShannonLinks, mixed_links

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


class ClientColumns:
    """The clients of a problem as columns: every method returns one value per client [client].

    Args:
        clients: a list of mappings, one a client, or a mapping of keys to arrays [client] (a
            scalar there stands for all clients; nested mappings are columns as well).
        names: given for nested columns only.
    """

    def __init__(
        self, clients: Any, where: str = "clients", names: Sequence[str] | None = None
    ) -> None:
        self._where = where
        self._known: list[str] = []
        self._columns = _columns(clients, where)
        self._count = _count(clients, where) if names is None else len(names)
        self.names: tuple[str, ...] = tuple(names) if names is not None else self._names()

    def __len__(self) -> int:
        return self._count

    def has(self, key: str) -> bool:
        """Whether any client has the key (which from now on is known)."""
        self._known.append(key)
        return key in self._columns

    def number(self, key: str, allowed: Range = FINITE, default: float | None = None) -> FloatArray:
        """Numbers in a range [client]; a missing one takes the default, or is refused."""
        return self._numbers(key, allowed, default)

    def level(
        self, key: str, allowed: Range = NOT_NEGATIVE, default: float | None = None
    ) -> FloatArray:
        """A linear quantity [client], each client's given as `key` or as its decibel twin."""
        twin, convert = decibel_twin(key)
        in_decibels = self._numbers(twin, LEVEL, np.nan)
        given = ~np.isnan(in_decibels)
        values = np.where(given, convert(in_decibels), np.nan)
        self._refuse(twin, in_decibels, ~given | allowed.holds(values), f"in watts {allowed.words}")
        linear = self._numbers(key, allowed, np.nan)
        self._refuse(twin, in_decibels, ~given | np.isnan(linear), f"left out beside {key}")
        values = np.where(given, values, linear)
        if default is None:
            self._refuse(key, values, ~np.isnan(values), f"{allowed.words}, or give {twin}")
            return values
        return np.where(np.isnan(values), default, values)

    def vectors(self, key: str, allowed: Range = FINITE, length: int | None = None) -> list[Any]:
        """A list of numbers per client; with a length, one number stands for all."""
        column = self._column(key)
        for index, value in enumerate(column):
            if value is None:
                self._missing(key, index, "a list of numbers")
        return [
            number_list(value, self._label(key, index), allowed, length)
            for index, value in enumerate(column)
        ]

    def nested(self, key: str) -> "ClientColumns":
        """The columns of a nested mapping, such as `payload_bits: {fixed, prunable}`."""
        self._known.append(key)
        column = self._columns.get(key)
        if column is None:
            self._missing(key, 0, "a mapping of keys to values")
        if isinstance(column, list):
            for index, value in enumerate(column):
                if value is None:
                    self._missing(key, index, "a mapping of keys to values")
                if not isinstance(value, Mapping):
                    raise InputError(self._label(key, index), value, "a mapping of keys to values")
        return ClientColumns(column, key, self.names)

    def close(self) -> None:
        """Refuse the keys that were not read."""
        refuse_unknown(self._columns, self._known, self._where)

    def _names(self) -> tuple[str, ...]:
        """A name for each client, its number without one; refused where two are alike."""
        column = self._column("name")
        first: dict[str, int] = {}
        for index, name in enumerate(column):
            if name is not None and not is_word(name):
                raise InputError(f"{self._where}[{index}].name", name, "a word")
            word = str(index) if name is None else str(name)
            if word in first:
                both = f"clients {first[word]} and {index}" if name is not None else "two clients"
                raise InputError(
                    f"{self._where}[{index}].name",
                    word,
                    "a name of its own for every client",
                    f"{both} (counted from 0) would share it",
                )
            first[word] = index
        return tuple(first)

    def _column(self, key: str) -> list[Any]:
        """One entry per client; None where a client lacks the key."""
        self._known.append(key)
        column = self._columns.get(key)
        if column is None:
            return [None] * self._count
        if not isinstance(column, list | tuple | np.ndarray):
            return [column] * self._count
        if len(column) != self._count:
            raise InputError(f"{self._where}.{key}", f"{len(column)} values", f"{self._count}")
        return list(column)

    def _numbers(self, key: str, allowed: Range, default: float | None) -> FloatArray:
        words = allowed.words
        array = self._columns.get(key)
        if isinstance(array, np.ndarray) and array.dtype.kind in "fiu" and len(array) == len(self):
            self._known.append(key)
            values = array.astype(np.float64)
            given = np.ones(self._count, dtype=bool)
        else:
            column = self._column(key)
            given = np.array([value is not None for value in column], dtype=bool)
            for index, value in enumerate(column):
                if value is not None and not is_number(value):
                    raise InputError(self._label(key, index), value, words)
            values = np.array([0.0 if v is None else v for v in column], dtype=np.float64)
        good = ~given | allowed.holds(values)
        if not good.all():
            words = allowed.refusal(float(values[int(np.argmin(good))]))
        self._refuse(key, values, good, words)
        if default is None and not given.all():
            self._missing(key, int(np.argmin(given)), words)
        filled: FloatArray = values if default is None else np.where(given, values, default)
        return filled

    def _refuse(self, key: str, values: FloatArray, good: Any, words: str) -> None:
        if not np.all(good):
            first = int(np.argmin(good))
            shown = "missing" if np.isnan(values[first]) and "or give" in words else values[first]
            value = shown if isinstance(shown, str) else float(shown)
            raise InputError(self._label(key, first), value, words)

    def _missing(self, key: str, index: int, words: str) -> None:
        remedy = misspelt(key, [name for name in self._columns if name not in self._known])
        raise InputError(self._label(key, index), "missing", words, remedy)

    def _label(self, key: str, index: int) -> str:
        path = key if self._where == "clients" else f"{self._where}.{key}"
        return f"{path} of client {self.names[index]}"


def read_links(
    clients: ClientColumns, noise_psd_w_hz: float | None
) -> ShannonLinks | FixedEfficiencyLinks | MixedLinks:
    """Each client's link: `tx_power_w` and `gain` (or in dB), or `spectral_efficiency_bps_hz`.

    `cn0 = p g / N0`. A client with both, or with neither, is refused by name.
    """
    efficiency = clients.number("spectral_efficiency_bps_hz", NOT_NEGATIVE, np.nan)
    fixed = ~np.isnan(efficiency)
    power = clients.level("tx_power_w", default=np.nan)
    gain = clients.level("gain", default=np.nan)
    for key, values in (("tx_power_w", power), ("gain", gain)):
        for index in np.flatnonzero(np.isnan(values) != fixed)[:1]:
            where = f"{key} of client {clients.names[index]}"
            if fixed[index]:
                raise InputError(where, "given", "left out beside spectral_efficiency_bps_hz")
            remedy = f"give {key} or {decibel_twin(key)[0]}"
            raise InputError(where, "missing", "a number >= 0", remedy)
    if noise_psd_w_hz is None:
        if not fixed.all():
            remedy = "give noise_psd_w_hz or noise_psd_dbm_hz"
            raise InputError("noise_psd_dbm_hz", "missing", "a number", remedy)
        return FixedEfficiencyLinks(efficiency)
    return mixed_links(power / noise_psd_w_hz * gain, efficiency)


def read_weights(clients: ClientColumns) -> FloatArray:
    """`weight`, 1 by default, divided by the sum [client]."""
    weight = clients.number("weight", NOT_NEGATIVE, 1.0)
    # Dividing by the largest first: the sum of huge weights would overflow.
    weight = weight / weight.max() if weight.max() > 0 else weight
    if not weight.sum() > 0:
        raise InputError("weight", "0 for every client", "> 0 for at least one client")
    shares: FloatArray = weight / weight.sum()
    return shares


def _columns(clients: Any, where: str) -> dict[str, Any]:
    """Key -> one entry per client (None where absent); columns given as arrays pass through."""
    if isinstance(clients, Mapping):
        return dict(clients)
    if not isinstance(clients, Sequence) or isinstance(clients, str) or not len(clients):
        raise InputError(where, clients, "a list with at least one client")
    keys: dict[str, None] = {}
    for index, client in enumerate(clients):
        if not isinstance(client, Mapping):
            raise InputError(f"{where}[{index}]", client, "a mapping of keys to values")
        keys.update(dict.fromkeys(client))
    return {key: [client.get(key) for client in clients] for key in keys}


def _count(clients: Any, where: str) -> int:
    """How many clients there are: the length of the list, or of the first array among columns."""
    if not isinstance(clients, Mapping):
        return len(clients)
    columns = list(clients.values())
    while columns:
        column = columns.pop(0)
        if isinstance(column, Mapping):
            columns += column.values()
        elif isinstance(column, list | tuple | np.ndarray) and np.ndim(column[0]) == 0:
            return len(column)
    raise InputError(where, "a mapping without arrays", "a list of clients, or columns of arrays")
