"""Rows of text from jsonl and csv files and from hub data sets, read as a stream."""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TextIO

from airtune.csv_table import column_names
from airtune.data.formats import YAHOO_CLASSES, YAHOO_COLUMNS, Row
from airtune.errors import InputError
from airtune.files import refuse_half_characters

FILE_KINDS = (".jsonl", ".ndjson", ".csv")
"""Suffixes of files with rows."""
CONVERSATIONS = ("messages", "conversations")
"""Columns whose lists of turns are handed on, as JSON."""
_LARGEST_CELL = 1 << 26
"""csv's own limit of 131,072 characters a cell is less than some answers in Yahoo! Answers."""


class Flag(str):
    """`true` or `false` of a JSON row: a label or a group, but not a text to learn."""


class Rows(Protocol):
    """A source of rows that can be read again and again. `place` names one row for a message."""

    @property
    def name(self) -> str:
        """How messages call the source."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that have a text in its first row."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns of its first row, whatever they hold."""

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        """(place, row) in the order of the source."""


@dataclass(frozen=True)
class JsonLines:
    """A file with one JSON object a line. Empty lines are skipped."""

    path: Path
    field: str

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def columns(self) -> tuple[str, ...]:
        return next((tuple(row) for _, row in self), ())

    @property
    def keys(self) -> tuple[str, ...]:
        return next((tuple(values) for _, values in self._objects()), ())

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        for place, values in self._objects():
            yield place, _texts(values, place)

    def _objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        with _open(self.path, self.field) as stream:
            for number, line in enumerate(_lines(stream, self.path, self.field), start=1):
                if line.strip():
                    place = f"{self.path}, line {number}"
                    yield place, _json_object(line, place)


@dataclass(frozen=True)
class Csv:
    """A csv file with a header; Yahoo! Answers, which has none, is known by its first row."""

    path: Path
    field: str

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def columns(self) -> tuple[str, ...]:
        with _open(self.path, self.field) as stream:
            first = next(self._cells(stream), (0, []))[1]
        return YAHOO_COLUMNS if _is_yahoo(first) else column_names(first, self.field, self.name)

    @property
    def keys(self) -> tuple[str, ...]:
        return self.columns

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        columns = self.columns
        with _open(self.path, self.field) as stream:
            for index, (number, cells) in enumerate(self._cells(stream)):
                if index == 0 and not _is_yahoo(cells):
                    continue
                place = f"{self.path}, line {number}"
                if len(cells) != len(columns):
                    raise InputError(
                        place,
                        f"a row of {len(cells)} cells",
                        f"{len(columns)} cells long",
                        "quote cells that hold commas or line breaks",
                    )
                yield place, dict(zip(columns, cells, strict=True))

    def _cells(self, stream: TextIO) -> Iterator[tuple[int, list[str]]]:
        """(number of the row's last line, cells); empty lines are skipped."""
        csv.field_size_limit(_LARGEST_CELL)
        reader = csv.reader(_lines(stream, self.path, self.field), strict=True)
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
        except csv.Error as error:
            place = f"{self.path}, line {reader.line_num}"
            raise InputError(
                place, f"not csv ({error})", "a row of comma-separated cells"
            ) from None


@dataclass(frozen=True)
class HubRows:
    """One split of a data set that the `datasets` library has loaded."""

    name: str
    split: Any

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.split.column_names)

    @property
    def keys(self) -> tuple[str, ...]:
        return self.columns

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        for number, row in enumerate(self.split):
            place = f"{self.name}, row {number}"
            yield place, _texts(row, place)


def open_rows(path: Path, field: str) -> Rows:
    """The rows of a jsonl or csv file; `field` is the key that named it."""
    kinds: dict[str, type[JsonLines] | type[Csv]] = {
        ".jsonl": JsonLines,
        ".ndjson": JsonLines,
        ".csv": Csv,
    }
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise InputError(field, str(path), "a .jsonl or .csv file", "convert the file")
    rows = kind(path, field)
    first = next(iter(rows), None) if kind is JsonLines else None
    if first is not None and not first[1]:
        raise InputError(
            first[0],
            "a row without a text",
            "a row with texts, or with `messages`",
            "give prompt and completion as texts, or a conversation as `messages`",
        )
    if not rows.columns:
        raise InputError(field, f"{path} (an empty file)", "a file with rows")
    return rows


def _open(path: Path, field: str) -> TextIO:
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise InputError(field, f"{path} ({error.strerror})", "a readable file") from None


def _lines(stream: TextIO, path: Path, field: str) -> Iterator[str]:
    """The lines of a file; bytes that are not UTF-8 are an InputError, not a crash."""
    try:
        yield from stream
    except UnicodeDecodeError:
        raise InputError(
            field,
            f"{path}, line {_undecodable_line(path)} (not UTF-8)",
            "UTF-8 text",
            "save the file as UTF-8",
        ) from None
    except OSError as error:
        raise InputError(field, f"{path} ({error.strerror})", "a readable file") from None


def _undecodable_line(path: Path) -> int:
    """Counted again in bytes, since text is decoded many lines at a time."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0


def _json_object(line: str, place: str) -> dict[str, Any]:
    def refused(name: str) -> float:
        raise InputError(place, f"not JSON ({name} is no number)", "one JSON object a line")

    try:
        value = json.loads(line, object_pairs_hook=partial(_object, place), parse_constant=refused)
    except json.JSONDecodeError as error:
        problem = f"not JSON ({error.msg}, column {error.colno})"
        raise InputError(place, problem, "one JSON object a line") from None
    except (ValueError, RecursionError) as error:  # numbers and nestings without end
        raise InputError(place, f"not read ({error})", "one JSON object a line") from None
    if not isinstance(value, dict):
        raise InputError(place, f"a JSON {type(value).__name__}", "one JSON object a line")
    return value


def _object(place: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that occurs twice is ambiguous, and refused."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise InputError(place, f"an object with {twice!r} twice", "an object with distinct keys")
    return values


def _texts(values: Mapping[str, Any], place: str) -> Row:
    """Texts as they are, finite numbers as text; a column of anything else stays out of the row.

    Other columns (lists, nested objects) may well be there unused; the column check reports one
    that is needed. Conversations stay in it, as JSON.
    """
    texts = {}
    for column, value in values.items():
        if isinstance(value, str):
            texts[column] = value
        elif isinstance(value, bool):
            texts[column] = Flag(str(value).lower())
        elif isinstance(value, int | float) and math.isfinite(value):
            # A hub data set has NaN where a value is missing, and 1e999 overflows to infinity.
            texts[column] = str(value)
        elif isinstance(value, list) and column in CONVERSATIONS:
            texts[column] = json.dumps(value, ensure_ascii=False)
    for column, text in texts.items():
        refuse_half_characters(text, f"{place}, column {column!r}")
    return texts


def _is_yahoo(cells: list[str]) -> bool:
    """Whether a first row is data of Yahoo! Answers: a class number and three texts."""
    return (
        len(cells) == len(YAHOO_COLUMNS)
        and cells[0].strip().isdecimal()
        and 1 <= int(cells[0]) <= len(YAHOO_CLASSES)
    )
