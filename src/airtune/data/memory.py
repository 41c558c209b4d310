"""Rows that a program holds in memory, under a name that an experiment can have: their digest.

Such rows cannot be read again from a run folder. Its `data.train` names their digest; to
continue the run, give the same rows to `keep_rows` first.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Generic, TypeVar

from airtune.data.cells import Row, texts
from airtune.errors import InputError

PREFIX = "in-memory:"
_DIGITS = 16
_ALLOWED = "a list of mappings, a pandas DataFrame or a split of the datasets library"
_NAMES = (str, PurePath, int, float, type(None))
"""What names a source, or is refused as no name of one."""
_kept: dict[str, "MemoryRows"] = {}
T = TypeVar("T")


@dataclass(frozen=True)
class MemoryRows:
    """A copy of a program's rows, counted from 0 as in the library that they came from."""

    name: str
    keys: tuple[str, ...]
    rows: Sequence[Row]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that have a text in the first row."""
        return tuple(self.rows[0])

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        for number, row in enumerate(self.rows):
            yield f"{self.name}, row {number}", row


def keep_rows(rows: Any, field: str = "data.train") -> str:
    """Keep rows for the experiments of this process; the name is what `data.train` may be.

    The rows are copied, and the same rows have the same name, whatever they are held in.

    Args:
        rows: a list of mappings from column to value, a pandas DataFrame, or a split of the
            `datasets` library.
        field: the key that is to name them, for messages.

    Raises:
        InputError: for anything else, for no rows, and for rows without a text.
    """
    values = [_plain(row) for row in _mappings(rows, field)]
    if not values:
        raise InputError(field, "no rows", f"{_ALLOWED}, with rows")
    kept = tuple(texts(row, f"{field}, row {number}") for number, row in enumerate(values))
    if not kept[0]:
        raise InputError(f"{field}, row 0", "a row without a text", "a row with texts")
    name = f"{PREFIX}{_digest(kept)}"
    _kept[name] = MemoryRows(name, tuple(values[0]), kept)
    return name


def kept_rows(name: str, field: str) -> MemoryRows:
    """The rows of this name; InputError where this process was not given them."""
    if name not in _kept:
        raise InputError(
            field,
            f"{name} (rows that were in a program's memory, not in a file)",
            "given again",
            "call airtune.keep_rows(rows) with the same rows first",
        )
    return _kept[name]


def named_in_data(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an experiment, with rows of `data.train` and `data.test` kept under a name."""
    data = values.get("data")
    if not isinstance(data, Mapping):
        return dict(values)
    rows = {
        key: keep_rows(data[key], f"data.{key}")
        for key in ("train", "test")
        if key in data and not isinstance(data[key], _NAMES)
    }
    return {**values, "data": {**data, **rows}}


@dataclass(frozen=True)
class _WithRows(Generic[T]):
    """A call in another process, which is given the rows that it needs."""

    make: Callable[[], T]
    kept: Mapping[str, MemoryRows]

    def __call__(self) -> T:
        _kept.update(self.kept)
        return self.make()


def with_rows(make: Callable[[], T], values: Iterable[object]) -> Callable[[], T]:
    """The same call for another process, together with kept rows that are named in `values`."""
    named = {value for value in values if isinstance(value, str) and value in _kept}
    return _WithRows(make, {name: _kept[name] for name in named}) if named else make


def _mappings(rows: Any, field: str) -> Iterator[Mapping[str, Any]]:
    if hasattr(rows, "to_dict") and hasattr(rows, "iterrows"):
        rows = rows.to_dict("records")
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        raise InputError(field, _shown(rows), _ALLOWED, "of several splits, name one")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not all(isinstance(key, str) for key in row):
            place = f"{field}, row {number}"
            raise InputError(place, _shown(row), "a mapping from names of columns to values")
        yield row


def _shown(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:60]}"


def _plain(value: Any) -> Any:
    """Arrays and scalars of numpy, and tuples, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return _plain(value.tolist()) if type(value).__module__ == "numpy" else value


def _digest(rows: Sequence[Row]) -> str:
    found = hashlib.sha256()
    for row in rows:
        cells = [[column, type(row[column]).__name__, row[column]] for column in sorted(row)]
        found.update(json.dumps(cells).encode() + b"\n")
    return found.hexdigest()[:_DIGITS]
