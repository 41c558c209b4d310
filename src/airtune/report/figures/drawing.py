"""What a figure shows, as numbers: what is drawn and what its csv holds are the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Axis:
    """A quantity and the unit it is drawn in; `key` names it in the csv, `log` its scale."""

    label: str
    unit: str
    key: str
    log: bool = False

    @property
    def text(self) -> str:
        """`virtual time [min]`; what only counts has no unit."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label

    @property
    def column(self) -> str:
        """`virtual_time_min`."""
        return f"{self.key}_{self.unit}" if self.unit else self.key


@dataclass(frozen=True)
class Curve:
    """Means over the seeds: after round `rounds[k]` the point (`x[k]`, `y[k]`).

    `low` and `high` are the band, a standard deviation below and above; empty for one seed.
    """

    name: str
    seeds: int
    rounds: Sequence[int]
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Curves:
    """Curves over one axis, and a level across all of them."""

    name: str
    x: Axis
    y: Axis
    curves: tuple[Curve, ...]
    level: tuple[str, float] | None = None

    @property
    def labels(self) -> list[str]:
        return [curve.name for curve in self.curves]

    def rows(self) -> Iterator[list[Any]]:
        """A row a point."""
        y = self.y.column
        yield ["arm", "seeds", "round", self.x.column, y, f"{y}_low", f"{y}_high"]
        for curve in self.curves:
            for k, number in enumerate(curve.rounds):
                band = [curve.low[k], curve.high[k]] if curve.low else ["", ""]
                yield [curve.name, curve.seeds, number, curve.x[k], curve.y[k], *band]


@dataclass(frozen=True)
class Interval:
    """A mean with a standard deviation below and above; all None where there is no value.

    `note` says what a reader must know of it.
    """

    name: str
    seeds: int
    mean: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Intervals:
    """One number of each arm."""

    name: str
    value: Axis
    intervals: tuple[Interval, ...]

    @property
    def labels(self) -> list[str]:
        return [interval.name for interval in self.intervals]

    def rows(self) -> Iterator[list[Any]]:
        """A row an arm."""
        column = self.value.column
        yield ["arm", "seeds", column, f"{column}_low", f"{column}_high", "note"]
        for it in self.intervals:
            numbers = ["" if value is None else value for value in (it.mean, it.low, it.high)]
            yield [it.name, it.seeds, *numbers, it.note]


@dataclass(frozen=True)
class Stack:
    """Parts that add up, for each arm (bars to the right) or each round (bars upwards).

    `parts` are (name, a value a category).
    """

    name: str
    category: str
    value: Axis
    categories: tuple[str | int, ...]
    parts: tuple[tuple[str, tuple[float, ...]], ...]

    @property
    def labels(self) -> list[str]:
        arms = [str(name) for name in self.categories] if self.category == "arm" else []
        return [*arms, *(part for part, _ in self.parts)]

    def rows(self) -> Iterator[list[Any]]:
        """A row a category and part."""
        yield [self.category, "stage", self.value.column]
        for place, category in enumerate(self.categories):
            for part, values in self.parts:
                yield [category, part, values[place]]


Drawing = Curves | Intervals | Stack
