"""Usual ranges of quantities: a value outside is most often a slip of units.

A value outside its usual range is refused with a sentence that names the unit; a user who
means it names its key in `unusual_values` beside it.
"""

from collections.abc import Collection
from dataclasses import dataclass

from airtune.errors import InputError


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
