"""Rows of a source, read as a stream: which kind of file a path is, and hub data sets."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from airtune.data.cells import Row, texts
from airtune.data.parquet_file import Parquet
from airtune.data.text_files import Csv, JsonArray, JsonLines, holds_array
from airtune.errors import InputError

_TEXT_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
FILE_KINDS = (*_TEXT_KINDS, ".parquet", *(f"{kind}.gz" for kind in _TEXT_KINDS))
"""Suffixes of files with rows."""
SHOWN_KINDS = ".jsonl, .json, .csv, .tsv or .parquet"
"""The same for messages; each but parquet may end in .gz."""
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LIKELY = ";\t|"
"""Delimiters of csv files other than commas."""


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
            yield place, texts(row, place)


def file_kind(path: Path) -> str | None:
    """The suffix of a file with rows, `.gz` with the one before it; None for any other file."""
    name = path.name.lower()
    return next((kind for kind in FILE_KINDS if name.endswith(kind) and name != kind), None)


def open_rows(path: Path, field: str, delimiter: str | None = None) -> Rows:
    """The rows of a file; `field` is the key that named it, `delimiter` is for csv and tsv."""
    kind = (file_kind(path) or "").removesuffix(".gz")
    if not kind:
        raise InputError(field, str(path), f"a {SHOWN_KINDS} file", "convert the file")
    if not path.exists():
        here = "check the path" if path.is_absolute() else f"{Path.cwd()} has no such file"
        raise InputError(field, str(path), "a file that exists", here)
    rows: Rows
    if kind == ".parquet":
        rows = Parquet(path, field)
    elif kind in _DELIMITERS:
        rows = Csv(path, field, delimiter or _DELIMITERS[kind])
        _refuse_other_delimiter(rows)
    else:
        is_array = kind == ".json" and holds_array(path, field)
        rows = JsonArray(path, field) if is_array else JsonLines(path, field)
        _refuse_no_text(rows)
    if not rows.columns:
        raise InputError(field, f"{path} (an empty file)", "a file with rows")
    return rows


def _refuse_no_text(rows: Rows) -> None:
    first = next(iter(rows), None)
    if first is not None and not first[1]:
        raise InputError(
            first[0],
            "a row without a text",
            "a row with texts, or with `messages`",
            "give prompt and completion as texts, or a conversation as `messages`",
        )


def _refuse_other_delimiter(rows: Csv) -> None:
    """InputError for a header of one cell in which another delimiter stands."""
    columns = rows.columns
    other = [mark for mark in (*_LIKELY, ",") if mark in "".join(columns)]
    if len(columns) == 1 and other:
        raise InputError(
            rows.field,
            f"{rows.name} with the header {columns[0]!r}",
            "a file with several columns",
            f"set data.delimiter, perhaps to {other[0]!r}"
            if rows.field.startswith("data.")
            else "separate its cells by commas",
        )
