"""What does not differ is said once: clients with the same values, panels in which nothing varies.

Values that differ by rounding alone are the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from math import isfinite
from statistics import median
from typing import TypeVar

from airtune.report.view import short_name

X = TypeVar("X")
Y = TypeVar("Y")
SAME = 1e-6
"""Values that differ by a smaller share are one number."""
FLAT = 0.01
"""A curve whose values differ by a smaller share would be a flat line, or look as if it varied."""
LOPSIDED = 8.0
"""An arm whose costs end at more than so many times the median arm's leaves the others no room."""
_NAMED = 3
"""Ranges of clients that a label still lists."""


def one_value(values: Iterable[float]) -> bool:
    """Whether all of some values are the same; of none, too."""
    known = list(values)
    return not known or max(known) - min(known) <= SAME * max(map(abs, known))


def flat(values: Iterable[float]) -> bool:
    """Whether a curve of these values is better said than drawn."""
    known = list(values)
    return not known or max(known) - min(known) <= FLAT * max(map(abs, known))


def lopsided(ends: Sequence[float]) -> bool:
    """Whether curves that end at these costs need a logarithmic axis to be seen beside another."""
    return len(ends) > 1 and max(ends) > LOPSIDED * median(ends) > 0.0


def stated(values: Sequence[float]) -> str:
    """`0.3`, or `0.2987 to 0.2994`."""
    ends = [f"{value:.4g}" for value in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def groups(rows: Mapping[int, Sequence[float | None]]) -> list[list[int]]:
    """Clients whose values are the same, in the order of each group's first client."""
    found: dict[tuple[str, ...], list[int]] = {}
    for client, values in rows.items():
        key = tuple("" if value is None else f"{value + 0.0:.6g}" for value in values)
        found.setdefault(key, []).append(client)
    return list(found.values())


def called(clients: Sequence[int], names: Sequence[str]) -> str:
    """A client's short name; of several their numbers, and the device that all of them are.

    >>> called([0, 1, 2, 5], ["client 0 (a)"] * 6)
    '0–2, 5 (a)'
    """
    if len(clients) == 1:
        return short_name(names[clients[0]])
    ranges = [
        [client for _, client in run]
        for _, run in groupby(enumerate(clients), key=lambda item: item[1] - item[0])
    ]
    parts = [f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in ranges]
    listed = ", ".join(parts) if len(parts) <= _NAMED else f"{parts[0]}, … ({len(clients)} clients)"
    devices = {names[client].partition("(")[2].removesuffix(")") for client in clients}
    kind = devices.pop() if len(devices) == 1 else ""
    return f"{listed} ({kind})" if kind else listed


def finite(values: Iterable[float | None]) -> list[float]:
    """The numbers among values that may be absent, infinite or none."""
    return [value for value in values if value is not None and isfinite(value)]


def stretches(count: int, most: int) -> list[slice]:
    """`count` places in order as at most `most` stretches that are as long as each other.

    The last one may be shorter.
    """
    length = max(1, -(-count // most))
    return [slice(start, min(start + length, count)) for start in range(0, count, length)]


MOST_POINTS = 1000


def thinned(x: Sequence[X], y: Sequence[Y]) -> tuple[list[X], list[Y]]:
    """Every k-th point of a long curve, its last one among them."""
    step = max(1, -(-len(x) // MOST_POINTS))
    places = [*range(0, len(x) - 1, step), len(x) - 1] if x else []
    return [x[place] for place in places], [y[place] for place in places]
