"""The differences between two recordings of `golden_record.py`, value by value.

Digests, integers and texts must be equal, numbers to 1e-9 of the larger one. Wording, real seconds
and places on the disk are not compared.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

RELATIVE = 1e-9
ABSOLUTE = {"gap": 1e-9, "excess": 1e-9}
"""Differences of nearly equal numbers, relative to them already: a relative tolerance of theirs
would compare rounding errors."""
IGNORED = frozenset(
    {
        "message",
        "notices",
        "tightest",
        "solve_time_s",
        "load_s",
        "real_s",
        "stages",
        "airtune",
        "stderr",
        "seconds",
        "base_model_name_or_path",
        "peft_version",
    }
)
"""Keys whose values are wording, real seconds, versions or places."""
WORDING = frozenset({"skipped", "stopped", "diverged", "failure"})
"""Keys under which texts are reasons in words: what has a reason is compared, the words are not."""
EXACT = frozenset({"digests", "payloads"})
"""Keys under which texts are digests, which are counted apart."""
MISSING = "(missing)"


class Difference(NamedTuple):
    """A place in a case where the two recordings differ."""

    case: str
    place: str
    base: Any
    head: Any

    def __str__(self) -> str:
        return f"{self.case}: {self.place}: {_short(self.base)} became {_short(self.head)}"


class Compared(NamedTuple):
    """What was compared: the differences, and how many digests and other values were equal or not.

    `values` counts numbers and texts that are no digests.
    """

    differences: list[Difference]
    digests: int
    values: int


def compare_case(case: str, base: Any, head: Any) -> Compared:
    """Compare one case's recordings, JSON values both."""
    found = _Comparison(case)
    found.visit((), base, head)
    return Compared(found.differences, found.digests, found.values)


class _Comparison:
    def __init__(self, case: str) -> None:
        self.case = case
        self.differences: list[Difference] = []
        self.digests = 0
        self.values = 0

    def visit(self, place: tuple[str, ...], base: Any, head: Any) -> None:
        """Compare what stands at a place of both recordings."""
        if isinstance(base, Mapping) and isinstance(head, Mapping):
            self._mappings(place, base, head)
        elif isinstance(base, list) and isinstance(head, list):
            self._lists(place, base, head)
        else:
            self._count(place)
            if not _equal(place, base, head):
                self._differ(place, base, head)

    def _mappings(
        self, place: tuple[str, ...], base: Mapping[str, Any], head: Mapping[str, Any]
    ) -> None:
        for key in dict.fromkeys((*base, *head)):
            if key in IGNORED:
                continue
            here = (*place, key)
            if key in base and key in head:
                self.visit(here, base[key], head[key])
            else:
                self._differ(here, base.get(key, MISSING), head.get(key, MISSING))

    def _lists(self, place: tuple[str, ...], base: Sequence[Any], head: Sequence[Any]) -> None:
        if len(base) != len(head):
            self._differ((*place, "length"), len(base), len(head))
        for index, (one, other) in enumerate(zip(base, head, strict=False)):
            self.visit((*place, str(index)), one, other)

    def _count(self, place: tuple[str, ...]) -> None:
        if EXACT.isdisjoint(place):
            self.values += 1
        else:
            self.digests += 1

    def _differ(self, place: tuple[str, ...], base: Any, head: Any) -> None:
        self.differences.append(Difference(self.case, "/".join(place), base, head))


def _equal(place: Sequence[str], base: Any, head: Any) -> bool:
    if isinstance(base, str) and isinstance(head, str):
        return base == head or not WORDING.isdisjoint(place)
    if isinstance(base, bool) or isinstance(head, bool):
        return base is head
    if isinstance(base, float | int) and isinstance(head, float | int):
        return _numbers_equal(place[-1] if place else "", base, head)
    return type(base) is type(head) and bool(base == head)


def _numbers_equal(key: str, base: float, head: float) -> bool:
    if isinstance(base, int) and isinstance(head, int):
        return base == head
    if math.isnan(base) or math.isnan(head):
        return math.isnan(base) and math.isnan(head)
    return math.isclose(base, head, rel_tol=RELATIVE, abs_tol=ABSOLUTE.get(key, 0.0))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
