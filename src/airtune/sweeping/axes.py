"""The points of a sweep: a grid over keys, a list of points, or both.

    adapter.rank=4,8,16 cell.bandwidth_hz=1e6,2e6      # 6 points
    --list points.csv                                  # a point a row, keys in the header

Values are typed as those of `--set`. Imports no torch: `airtune plan` reads its keys here.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from airtune.csv_table import read_csv
from airtune.errors import InputError
from airtune.files import parse_yaml, read_text, refuse_half_characters

MOST_POINTS = 10_000
"""A sweep that is larger is most often a slip of the keyboard."""
LONGEST_NAME = 80
_OPENING, _CLOSING = "[{", "]}"
LIST = "--list"


@dataclass(frozen=True)
class Point:
    """One point, counted from 1: dotted keys and their values."""

    number: int
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """`adapter.rank=4 cell.bandwidth_hz=5e6`."""
        return " ".join(f"{key}={show(value)}" for key, value in self.values.items())


def show(value: Any) -> str:
    """A value as a short text that stands for no other number."""
    if isinstance(value, float):
        short = f"{value:g}".replace("e+0", "e").replace("e+", "e")
        return short if float(short) == value else repr(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value, default=str)


@dataclass(frozen=True)
class Axes:
    """What is swept: `grid` key -> values, and `rows` of a list, each key -> value."""

    grid: Mapping[str, Sequence[Any]]
    rows: Sequence[Mapping[str, Any]] = ()

    @property
    def keys(self) -> list[str]:
        """Every swept key; those of the list first."""
        return list(dict.fromkeys([*(key for row in self.rows for key in row), *self.grid]))

    @property
    def points(self) -> list[Point]:
        """Every point, the last key of the grid changing first."""
        grids = [
            dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())
        ]
        made = [{**row, **grid} for row in self.rows or ({},) for grid in grids]
        return [Point(number, values) for number, values in enumerate(made, start=1)]


def read_axes(settings: Sequence[str], path: Path | None = None, option: str = "KEY=A,B,C") -> Axes:
    """`key=a,b,c` texts and the file of a list; `option` is what messages call the texts.

    Raises InputError for nothing to sweep, a key or a value that stands twice, and too many points.
    """
    grid: dict[str, list[Any]] = {}
    for text in settings:
        key, values = read_axis(text, option)
        if key in grid:
            raise InputError(option, text, "a key that is swept once", f"{key} is given twice")
        grid[key] = values
    return checked_axes(Axes(grid, read_list(path) if path is not None else ()), option)


def checked_axes(axes: Axes, option: str = "KEY=A,B,C") -> Axes:
    """The axes, refused where they are no sweep."""
    if not axes.grid and not axes.rows:
        example = "for example adapter.rank=4,8, or a list of points"
        raise InputError(option, "missing", "the keys to sweep", example)
    count = max(1, len(axes.rows))
    for key, values in axes.grid.items():
        refuse_twice(values, f"{option} {key}")
        count *= len(values)
        if any(key in row for row in axes.rows):
            raise InputError(option, key, f"either there or in the {LIST}", "it is in both")
    if count > MOST_POINTS:
        raise InputError(option, f"{count:,} points", f"{MOST_POINTS:,} points at most")
    refuse_twice([dict(sorted(row.items())) for row in axes.rows], LIST)
    return axes


def refuse_twice(values: Sequence[Any], field: str) -> None:
    """Refuse a value that stands twice: its points would be the same."""
    seen: set[str] = set()
    for value in values:
        text = json.dumps(_number(value), sort_keys=True, default=str)
        if text in seen:
            raise InputError(field, show(value), "there once", "it would be the same point twice")
        seen.add(text)


def _number(value: Any) -> Any:
    """1000000 and 1e6 are the same value, at any depth."""
    if isinstance(value, Mapping):
        return {key: _number(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_number(part) for part in value]
    return float(value) if type(value) is int and abs(value) < 2**53 else value


def read_axis(text: str, option: str) -> tuple[str, list[Any]]:
    """`bandwidth_hz=5e6,10e6` as a key and its values."""
    key, equals, values = text.partition("=")
    parts = list(_parts(values))
    if not equals or not all(part.strip() for part in key.split(".")) or not all(parts):
        example = "for example bandwidth_hz=5e6,10e6; no value: null"
        raise InputError(option, text, "KEY=A,B,C", example)
    refuse_half_characters(key, option)
    return key.strip(), [parse_yaml(part, f"{option} {key.strip()}") for part in parts]


def _parts(text: str) -> Iterator[str]:
    """The text between commas that stand in no brackets and no quotes."""
    start, depth, quote = 0, 0, ""
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and not text[start:place].strip():
            quote = letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        elif letter == "," and depth <= 0:
            yield text[start:place].strip()
            start = place + 1
    yield text[start:].strip()


def read_list(path: Path) -> list[dict[str, Any]]:
    """The points of a csv file (keys in the header, an empty cell leaves its key alone) or of a
    YAML list of mappings, dotted or nested."""
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _yaml_rows(path)
    if not rows:
        raise InputError(LIST, f"{path} without a point", "a file with at least one point")
    return rows


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    table = read_csv(path, LIST)
    if not all(table.columns):
        raise InputError(LIST, f"{path.name} with a column without a name", "a key in each column")
    return [
        {
            key: parse_yaml(cell, f"{path.name}, line {number}, {key}")
            for key, cell in row.items()
            if cell
        }
        for number, row in table.rows
    ]


def _yaml_rows(path: Path) -> list[dict[str, Any]]:
    content = parse_yaml(read_text(path, LIST), str(path))
    if not isinstance(content, list) or not all(isinstance(row, Mapping) for row in content):
        raise InputError(LIST, str(path), "a list of mappings of keys to values, or a csv file")
    return [flat_point(row) for row in content]


def flat_point(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; a part (`codec: {use: …}`) is a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value and "use" not in value:
            found |= flat_point(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def folder_names(points: Sequence[Point]) -> list[str]:
    """A folder for each point: its number, and its values as far as they are short."""
    digits = len(str(len(points)))
    names = []
    for point in points:
        words = re.sub(r"[^\w.+=-]+", "-", point.name)[:LONGEST_NAME].rstrip(".-")
        names.append(f"{point.number:0{digits}d}-{words}")
    return names


def short_keys(keys: Sequence[str]) -> list[str]:
    """Keys without their sections where that leaves them distinct."""
    short = [key.rpartition(".")[2] for key in keys]
    return [word if short.count(word) == 1 else key for word, key in zip(short, keys, strict=True)]
