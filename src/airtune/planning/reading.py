"""Reading a planning problem: known keys, units, ranges; every refusal names the field.

Keys carry their unit. A linear key may be given in decibels instead: `tx_power_w` as
`tx_power_dbm`, `noise_psd_w_hz` as `noise_psd_dbm_hz`, `gain` as `gain_db`. A reader records the
keys that were read, and `close` refuses every other one. What the answers of all methods share is
plain data for JSON.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from airtune.allocation.solve import Solution
from airtune.errors import InputError
from airtune.planning.fields import (
    FINITE,
    LEVEL,
    NOT_NEGATIVE,
    REQUIRED,
    ClientColumns,
    Range,
    decibel_twin,
    is_number,
    is_word,
    misspelt,
    number_list,
    refuse_unknown,
)
from airtune.quantities import FloatArray

MOST_COUNTED = 10**15
"""Beyond it a float does not distinguish all whole numbers."""


class Reader:
    """One mapping of a problem file, read key by key.

    Args:
        mapping: keys to values, as YAML gives them.
        where: what the mapping is called in messages, such as `main_server`; "" at the top.
    """

    def __init__(self, mapping: Any, where: str = "") -> None:
        if not isinstance(mapping, Mapping):
            raise InputError(where or "the problem", mapping, "a mapping of keys to values")
        self._mapping = mapping
        self._where = where
        self._known: list[str] = []

    def has(self, key: str) -> bool:
        """Whether the key is there (and from now on known)."""
        self._known.append(key)
        return self._mapping.get(key) is not None

    def number(self, key: str, allowed: Range = FINITE, default: Any = REQUIRED) -> float:
        """A number in the range."""
        value = self._get(key, allowed.words, default)
        if not is_number(value):
            raise InputError(self._name(key), value, allowed.words)
        if not allowed.holds(value):
            raise InputError(self._name(key), value, allowed.refusal(value))
        return float(value)

    def count(
        self, key: str, default: Any = REQUIRED, least: int = 1, most: int | None = None
    ) -> int:
        """A whole number, `MOST_COUNTED` at most by default."""
        allowed = f"a whole number >= {least}"
        value = self._get(key, allowed, default)
        if not is_number(value) or value % 1 != 0 or value < least:
            raise InputError(self._name(key), value, allowed)
        most = MOST_COUNTED if most is None else most
        if value > most:
            raise InputError(self._name(key), value, f"a whole number from {least} to {most}")
        return int(value)

    def level(self, key: str, allowed: Range = NOT_NEGATIVE, default: Any = REQUIRED) -> float:
        """A linear quantity, given as `key` or as its decibel twin."""
        twin, convert = decibel_twin(key)
        if self.has(twin):
            if self.has(key):
                raise InputError(self._name(twin), self._mapping[twin], f"left out beside {key}")
            self._known.append(key)
            value = float(convert(self.number(twin, LEVEL)))
            if not allowed.holds(value):
                raise InputError(self._name(twin), self._mapping[twin], f"in watts {allowed.words}")
            return value
        if self.has(key):
            return self.number(key, allowed)
        if default is REQUIRED:
            raise InputError(self._name(key), "missing", f"{allowed.words}, or give {twin}")
        return float(default)

    def vector(self, key: str, allowed: Range = FINITE, length: int | None = None) -> FloatArray:
        """A list of numbers; with a length, one number stands for all."""
        value = self._get(key, "a list of numbers", REQUIRED)
        return number_list(value, self._name(key), allowed, length)

    def text(self, key: str, default: Any = REQUIRED) -> str:
        """A word, such as a name."""
        value = self._get(key, "a word", default)
        if not is_word(value):
            raise InputError(self._name(key), value, "a word")
        return str(value)

    def section(self, key: str) -> "Reader":
        """A nested mapping; close it as well."""
        return Reader(self._get(key, "a mapping of keys to values", REQUIRED), self._name(key))

    def rows(self, key: str) -> list["Reader"]:
        """A list of mappings."""
        value = self._get(key, "a list of mappings", REQUIRED)
        if not isinstance(value, Sequence) or isinstance(value, str) or not len(value):
            raise InputError(self._name(key), value, "a list with at least one entry")
        return [Reader(row, f"{self._name(key)}[{index}]") for index, row in enumerate(value)]

    def clients(self, key: str = "clients") -> "ClientColumns":
        """The list of clients (or, from Python, a mapping of columns), read column by column."""
        return ClientColumns(self._get(key, "a list of clients", REQUIRED))

    def close(self) -> None:
        """Refuse the keys that were not read."""
        refuse_unknown(self._mapping, self._known, self._where)

    def _get(self, key: str, allowed: str, default: Any) -> Any:
        self._known.append(key)
        value = self._mapping.get(key)
        if value is None:
            if default is REQUIRED:
                remedy = misspelt(key, self._mapping)
                raise InputError(self._name(key), "missing", allowed, remedy)
            return default
        return value

    def _name(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key


def heading(solution: Solution[Any]) -> dict[str, Any]:
    """Status and message, the first keys of every answer; `plan: null` where there is none."""
    found = {"status": str(solution.status), "message": solution.message}
    return found if solution.plan is not None else {**found, "plan": None}


def closing(solution: Solution[Any]) -> dict[str, Any]:
    """The solver, and the independent check: the constraint nearest to being exceeded."""
    check = None
    if solution.check is not None:
        name, excess = solution.check.worst
        check = {"passed": solution.check.passed, "tightest": name, "excess": finite(excess)}
    return {
        "solver": solution.solver,
        "solve_time_s": solution.solve_time_s,
        "iterations": solution.iterations,
        "check": check,
    }


def finite(value: float | None) -> float | None:
    """JSON has neither NaN nor infinity: null for both."""
    return None if value is None or not math.isfinite(value) else float(value)
