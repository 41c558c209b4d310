"""Files of rows that are text: JSON lines, an array in JSON, and csv; each may be gz-compressed."""

import csv
import gzip
import json
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, TextIO, cast, final

from airtune.csv_table import column_names
from airtune.data.cells import Row, texts
from airtune.data.formats import YAHOO_CLASSES, YAHOO_COLUMNS
from airtune.errors import InputError

_LARGEST_CELL = 1 << 26
"""csv's own limit of 131,072 characters a cell is less than some answers in Yahoo! Answers."""
_BLANKS = " \t\r\n"
_ARRAY = "an array of JSON objects"


@dataclass(frozen=True)
class _JsonRows(ABC):
    """A file of JSON objects; the first is looked at once."""

    path: Path
    field: str

    @property
    def name(self) -> str:
        return str(self.path)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return next((tuple(row) for _, row in self), ())

    @cached_property
    def keys(self) -> tuple[str, ...]:
        return next((tuple(values) for _, values in self._objects()), ())

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        for place, values in self._objects():
            yield place, texts(values, place)

    @abstractmethod
    def _objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each object with its place."""


@final
class JsonLines(_JsonRows):
    """A file with one JSON object a line. Empty lines are skipped."""

    def _objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        with _open(self.path, self.field) as stream:
            for number, line in enumerate(_lines(stream, self.path, self.field), start=1):
                if line.strip():
                    place = f"{self.path}, line {number}"
                    yield place, _json_object(line, place)


@final
class JsonArray(_JsonRows):
    """A file that holds one array of JSON objects, counted from 1.

    Its text is in memory while it is read, its entries one after another.
    """

    def _objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        with _open(self.path, self.field) as stream:
            text = "".join(_lines(stream, self.path, self.field))
        at, number = _after_blanks(text, text.find("[") + 1), 0
        while text[at : at + 1] != "]":
            number += 1
            place = f"{self.path}, entry {number}"
            value, at = self._entry(text, at, place)
            yield place, value
            at = self._next_entry(text, _after_blanks(text, at), place)
        if text[at + 1 :].strip():
            raise InputError(str(self.path), f"an array and more ({_spot(text, at + 1)})", _ARRAY)

    def _next_entry(self, text: str, at: int, place: str) -> int:
        """Where the next entry begins, or the array's end is."""
        if text[at : at + 1] == ",":
            at = _after_blanks(text, at + 1)
            if text[at : at + 1] != "]":
                return at
            problem = f"followed by a comma and no entry ({_spot(text, at)})"
        elif text[at : at + 1] == "]":
            return at
        else:
            problem = f"followed by neither a comma nor the array's end ({_spot(text, at)})"
        raise InputError(place, problem, f"an entry of {_ARRAY}")

    def _entry(self, text: str, at: int, place: str) -> tuple[dict[str, Any], int]:
        decode = _decoder(place, _ARRAY).raw_decode
        value, end = _decoded(lambda: decode(text, at), place, _ARRAY)
        return _checked_object(value, place, _ARRAY), end


@dataclass(frozen=True)
class Csv:
    """A csv file with a header; Yahoo! Answers, which has none, is known by its first row."""

    path: Path
    field: str
    delimiter: str = ","

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
                        f"quote cells that hold {self._delimiters} or line breaks",
                    )
                yield place, dict(zip(columns, cells, strict=True))

    @property
    def _delimiters(self) -> str:
        named = {",": "commas", "\t": "tabs"}
        return named.get(self.delimiter, repr(self.delimiter))

    def _cells(self, stream: TextIO) -> Iterator[tuple[int, list[str]]]:
        """(number of the row's last line, cells); empty lines are skipped."""
        csv.field_size_limit(_LARGEST_CELL)
        lines = _lines(stream, self.path, self.field)
        reader = csv.reader(lines, strict=True, delimiter=self.delimiter)
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
        except csv.Error as error:
            place = f"{self.path}, line {reader.line_num}"
            between = "comma-separated cells"
            if self.delimiter != ",":
                between = f"cells between {self._delimiters}, quoted as in csv"
            raise InputError(place, f"not csv ({error})", f"a row of {between}") from None


def holds_array(path: Path, field: str) -> bool:
    """Whether a file of JSON begins as an array does; else it may have an object a line."""
    with _open(path, field) as stream:
        start = next((line for line in _lines(stream, path, field) if line.strip()), "")
    return start.lstrip().startswith("[")


def _open(path: Path, field: str) -> TextIO:
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        return TextIOWrapper(_bytes(path), encoding="utf-8-sig", newline="")
    except OSError as error:
        raise InputError(field, f"{path} ({error.strerror})", "a readable file") from None


def _bytes(path: Path) -> IO[bytes]:
    packed = path.suffix.lower() == ".gz"
    return cast(IO[bytes], gzip.GzipFile(path) if packed else path.open("rb"))


def _lines(stream: TextIO, path: Path, field: str) -> Iterator[str]:
    """The lines of a file; bytes that are not UTF-8 are an InputError, not a crash."""
    number = 0
    try:
        for line in stream:
            number += 1
            yield line
    except UnicodeDecodeError:
        raise InputError(
            field,
            f"{path}, line {_undecodable_line(path)} (not UTF-8)",
            "UTF-8 text",
            "save the file as UTF-8",
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        problem = f"{path} (not gz data after line {number}: {str(error).rstrip('.')})"
        raise InputError(field, problem, "a whole gz file", "compress it again") from None
    except OSError as error:
        raise InputError(field, f"{path} ({error.strerror})", "a readable file") from None


def _undecodable_line(path: Path) -> int:
    """Counted again in bytes, since text is decoded many lines at a time."""
    with _bytes(path) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0


def _json_object(line: str, place: str) -> dict[str, Any]:
    allowed = "one JSON object a line"
    value = _decoded(lambda: _decoder(place, allowed).decode(line), place, allowed)
    return _checked_object(value, place, allowed)


def _checked_object(value: Any, place: str, allowed: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(place, f"a JSON {type(value).__name__}", allowed)
    return value


def _decoder(place: str, allowed: str) -> json.JSONDecoder:
    def refused(name: str) -> float:
        raise InputError(place, f"not JSON ({name} is no number)", allowed)

    return json.JSONDecoder(object_pairs_hook=partial(_object, place), parse_constant=refused)


def _decoded(decode: Callable[[], Any], place: str, allowed: str) -> Any:
    try:
        return decode()
    except json.JSONDecodeError as error:
        where = f"column {error.colno}"
        where = f"line {error.lineno}, {where}" if allowed == _ARRAY else where
        raise InputError(place, f"not JSON ({error.msg}, {where})", allowed) from None
    except (ValueError, RecursionError) as error:  # numbers and nestings without end
        raise InputError(place, f"not read ({error})", allowed) from None


def _object(place: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that occurs twice is ambiguous, and refused."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise InputError(place, f"an object with {twice!r} twice", "an object with distinct keys")
    return values


def _after_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at


def _spot(text: str, at: int) -> str:
    error = json.JSONDecodeError("", text, _after_blanks(text, at))
    return f"line {error.lineno}, column {error.colno}"


def _is_yahoo(cells: list[str]) -> bool:
    """Whether a first row is data of Yahoo! Answers: a class number and three texts."""
    return (
        len(cells) == len(YAHOO_COLUMNS)
        and cells[0].strip().isdecimal()
        and 1 <= int(cells[0]) <= len(YAHOO_CLASSES)
    )
