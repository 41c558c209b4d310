"""Csv files with a header line, read by the same rules wherever a user names one."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from airtune.errors import InputError
from airtune.files import read_text

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class CsvTable:
    """The rows of a csv file, cells without blanks around them.

    Attributes:
        name: the file's name, for messages.
        columns: names of the header line, in order; the unnamed ones are "".
        rows: (line number, column -> cell); a cell that a short row lacks is "".
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Mapping[str, str]], ...]

    @property
    def shown_columns(self) -> str:
        """The names of the columns, for messages."""
        return ", ".join(name for name in self.columns if name) or "none"


def read_csv(path: Path, field: str) -> CsvTable:
    """A csv file whose first line names the columns; empty lines are skipped.

    A byte order mark, and blanks around names and cells, are not part of them.

    Raises:
        InputError: naming `field`: an unreadable file, a name that stands twice in the header, a
            row with more cells than the header has names, or text that is not csv.
    """
    lines = _lines(path, field)
    _, header = next(lines, (0, []))
    if len(header) == 1 and re.search("[;\t]", header[0]):
        raise InputError(
            field,
            f"{path.name} with the header {header[0]!r}",
            "cells separated by commas",
            "convert the file",
        )
    columns = column_names(header, field, path.name)
    rows = tuple(
        (number, _row(columns, cells, field, f"{path.name}, line {number}"))
        for number, cells in lines
    )
    return CsvTable(path.name, columns, rows)


def column_names(header: Sequence[str], field: str, name: str) -> tuple[str, ...]:
    """The names in a header line, without blanks around them; InputError for a repeated one."""
    names = tuple(cell.strip() for cell in header)
    twice = [column for column, count in Counter(names).items() if count > 1 and column]
    if twice:
        raise InputError(
            field,
            f"{name} with more than one column {', '.join(map(repr, twice))}",
            "a file whose columns have different names",
            "rename or remove the repeated column",
        )
    return names


def plain_number(text: str) -> float | None:
    """The value of a decimal number such as `12`, `-0.5` or `2e6`; None for any other text.

    Python's `float` also takes `1_000`, `nan`, `inf` and digits of other scripts, none of which a
    measurement contains on purpose. The value may overflow to infinity: check its range.
    """
    return float(text) if _NUMBER.fullmatch(text) else None


def _lines(path: Path, field: str) -> Iterator[tuple[int, list[str]]]:
    # A blank after a comma is no part of the cell, also where a quoted one follows.
    reader = csv.reader(StringIO(read_text(path, field)), strict=True, skipinitialspace=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise InputError(
            field,
            f"{path.name}, line {reader.line_num}, not csv ({error})",
            "rows of comma-separated cells",
        ) from None


def _row(
    columns: tuple[str, ...], cells: Sequence[str], field: str, place: str
) -> Mapping[str, str]:
    texts = [cell.strip() for cell in cells]
    if any(texts[len(columns) :]):
        raise InputError(
            field,
            f"{place}, with {len(texts)} cells",
            f"rows of {len(columns)}, as in the header",
            "write decimals with a point, and quote cells that hold commas",
        )
    texts += [""] * (len(columns) - len(texts))
    return dict(zip(columns, texts, strict=False))
