"""Files of measured throughput: csv by rows, and packet deliveries of mahimahi.

A reader for each format of `cell.trace_format`; those of csv files share one, `read_trace`, and
differ in the columns that they know (`trace_layout.LAYOUTS`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from airtune.csv_table import CsvTable, plain_number, read_csv
from airtune.errors import InputError
from airtune.files import read_text
from airtune.wireless.trace import Gaps, Sample, Trace, on_a_clock
from airtune.wireless.trace_layout import LAYOUTS, PACKETS, SECONDS, SHORT_UNITS, TRACE_UNITS

_UNIT = re.compile(r"(?:^|_)([kmg]?)bps$", re.IGNORECASE)
_PREFIX = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_UNIT_NAMES = ", ".join(SHORT_UNITS)
_SLOWEST_BPS, _FASTEST_BPS = 1.0, 1e13
"""A sample other than 0 lies between: no radio link is measured outside."""
_LATEST_S = 1e12
"""Beyond it a float does not tell milliseconds apart."""
_LOGGED = "%Y.%m.%d_%H.%M.%S"
_MOST_WINDOWS = 10_000_000
PACKET_BITS = 12_000
"""A line of mahimahi's is an opportunity for one packet of 1500 bytes."""


@dataclass(frozen=True)
class TraceClock:
    """When rows were taken: a column, its unit (None: as its name ends), and gaps between rows."""

    column: str
    unit: str | None = None
    gaps: Gaps = field(default_factory=Gaps)


def read_trace(
    path: Path,
    column: str | None = None,
    where: Mapping[str, Any] | None = None,
    unit: str | None = None,
    clock: TraceClock | None = None,
) -> Trace:
    """One column of a csv file as a trace, in bit/s.

    The column's name ends in its unit: bps, kbps, Mbps or Gbps, also in lower case, for bits;
    Bps, kBps, MBps or GBps, with the capital B of bytes, for 8 bits each.

    Args:
        path: csv file with a header line.
        column: column name; None takes the only column with such a unit.
        where: use only rows that have these values, for example `{"protocol": "TCP"}`.
        unit: one of `TRACE_UNITS`, instead of the one in the name.
        clock: when the rows were taken; None: a row is a round.

    Raises:
        InputError: file or column missing, a unit that is neither bits nor bytes (MBPS), a sample
            that is not a plain number or not between 1 bit/s and 10 Tbit/s, a time that is none or
            goes back (with file and line), or no sample at all. A sample of 0 is data: the link
            was down.
    """
    table = read_csv(path, "cell.trace")
    chosen = _choose_column(table, column)
    bits = TRACE_UNITS[unit] if unit else _bits_of(chosen, table.name)
    for key in where or {}:
        _require_column(table, key, "cell.trace_where")
    times = _Times(table, clock) if clock else None
    samples = list(_samples(table, chosen, bits, where or {}, times))
    if not samples:
        raise InputError("cell.trace", str(path), "a csv file with at least one row to use")
    name = f"{table.name}:{chosen}"
    if clock is None:
        return Trace(name, np.array([sample.rate_bps for sample in samples]))
    return on_a_clock(name, table.name, samples, clock.gaps)


def format_of(path: Path) -> str:
    """The format that a file's first line shows; csv where it shows none of the others."""
    first = next(iter(read_text(path, "cell.trace").splitlines()), "").removeprefix("\ufeff")
    if first.isascii() and first.strip().isdigit():
        return PACKETS
    names = {name.strip() for name in first.split(",")}
    for name, layout in LAYOUTS.items():
        known = {layout.column, layout.downlink_column, layout.time_column}
        if layout.column and known <= names:
            return name
    return "csv"


def _require_column(table: CsvTable, name: str, field: str) -> None:
    if name not in table.columns:
        raise InputError(field, name, f"a column of {table.name}: {table.shown_columns}")


def _choose_column(table: CsvTable, column: str | None) -> str:
    if column is not None:
        _require_column(table, column.strip(), "cell.trace_column")
        return column.strip()
    candidates = [name for name in table.columns if _UNIT.search(name)]
    if len(candidates) != 1:
        found = ", ".join(candidates) or "none"
        raise InputError(
            "cell.trace_column",
            None,
            f"given, since {table.name} has not one throughput column",
            f"columns that end in a unit ({_UNIT_NAMES}): {found}{_looks_like(table)}",
        )
    return candidates[0]


def _looks_like(table: CsvTable) -> str:
    """A word where the columns are those of a known data set."""
    for name, layout in LAYOUTS.items():
        known = {layout.column, layout.downlink_column, layout.time_column}
        if layout.column and known <= set(table.columns):
            return f"; its columns are those of cell.trace_format {name}"
    return ""


def _bits_of(column: str, file: str) -> float:
    """Bits that 1 in this column stands for, by the unit at the end of its name."""
    found = _UNIT.search(column)
    if found is None:
        raise InputError(
            "cell.trace_column",
            column,
            f"a column of {file} in one of {_UNIT_NAMES}",
            "its name must end in the unit, like throughput_mbps, or cell.trace_unit name it",
        )
    letters = found[0].lstrip("_")
    if letters[-3:] not in ("bps", "Bps"):
        raise InputError(
            "cell.trace_column",
            column,
            f"a column of {file} whose unit is clearly bits or bytes",
            f"{letters} may mean either: set cell.trace_unit to one of {_UNIT_NAMES}",
        )
    return TRACE_UNITS[letters[-3:]] * _PREFIX[found[1].lower()]


class _Times:
    """The time column of a file, in seconds."""

    def __init__(self, table: CsvTable, clock: TraceClock) -> None:
        self._table, self._column = table, clock.column.strip()
        _require_column(table, self._column, "cell.trace_time_column")
        self._unit = clock.unit or self._unit_of_name()

    def _unit_of_name(self) -> str:
        ending = self._column.rpartition("_")[2]
        if ending not in SECONDS:
            raise InputError(
                "cell.trace_time_column",
                self._column,
                f"a column of {self._table.name} whose name ends in _s, _ms or _us",
                "or set cell.trace_time_unit: s, ms, us or timestamp",
            )
        return ending

    def of(self, line: int, row: Mapping[str, str]) -> float:
        """Seconds; InputError, with the line, for a cell that is no time."""
        text = row[self._column]
        if self._unit == "timestamp":
            value, allowed = _moment(text), "a date with a time, such as 2024-05-17T08:30:00"
        else:
            value, allowed = plain_number(text), f"a number of {self._unit}"
            value = None if value is None else value * SECONDS[self._unit]
        if value is None or not abs(value) <= _LATEST_S:
            raise _bad_cell(self._table, line, self._column, text, allowed)
        return value


def _moment(text: str) -> float | None:
    """Seconds of a date with a time, ISO 8601 or as G-NetTrack writes it; without a zone, UTC."""
    for read in (datetime.fromisoformat, lambda value: datetime.strptime(value, _LOGGED)):
        try:
            found = read(text)
        except ValueError:
            continue
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    return None


def _samples(
    table: CsvTable, column: str, bits: float, where: Mapping[str, Any], times: _Times | None
) -> Iterator[Sample]:
    for line, row in table.rows:
        if any(row[key] != str(value).strip() for key, value in where.items()):
            continue
        value = plain_number(row[column])
        if value is None or value < 0:
            raise _bad_cell(table, line, column, row[column], "a throughput >= 0, such as 12.5")
        rate = value * bits
        if rate != 0 and not _SLOWEST_BPS <= rate <= _FASTEST_BPS:
            allowed = "0, or from 1 bit/s to 10 Tbit/s"
            raise _bad_cell(table, line, column, row[column], allowed)
        yield Sample(line, times.of(line, row) if times else 0.0, rate)


def _bad_cell(table: CsvTable, line: int, column: str, text: str, allowed: str) -> InputError:
    return InputError(
        "cell.trace",
        f"{table.name}, line {line}, {column} {text!r}",
        allowed,
        "mend the cell, or choose the rows to use with cell.trace_where",
    )


def read_packets(path: Path, window_s: float) -> Trace:
    """A packet-delivery file of mahimahi as throughput over windows.

    A line holds a whole number of milliseconds, not less than the line before; each is an
    opportunity for 1500 bytes. The file lasts until its last line, where it starts over. It is
    divided into equal windows of at least `window_s`, `rate = 12000 packets / width`; a packet at
    the very end counts in the last one. So no opportunity is lost, and the mean rate is that of the
    file. Source: mahimahi, traces/README and src/frontend/link_queue.cc.

    Raises InputError, with file and line, for any other line, and for a file of no duration.
    """
    times_ms = _deliveries(path)
    duration_s = times_ms[-1] * 1e-3
    count = max(1, int(duration_s / window_s + 1e-9))
    if count > _MOST_WINDOWS:
        allowed = f"at least {duration_s / _MOST_WINDOWS:.3g} for {path.name}"
        raise InputError("cell.trace_window_s", window_s, allowed)
    width_s = duration_s / count
    # In whole numbers, since a packet at the edge of a window belongs to the later one.
    window = np.minimum(times_ms * count // int(times_ms[-1]), count - 1)
    packets = np.bincount(window, minlength=count)
    return Trace(path.name, packets * (PACKET_BITS / width_s), np.arange(count + 1) * width_s)


def _deliveries(path: Path) -> Any:
    """Milliseconds, line by line [packet], int64."""
    texts = read_text(path, "cell.trace").splitlines()
    times = np.zeros(len(texts), dtype=np.int64)
    for line, text in enumerate(texts, start=1):
        if not (text.isascii() and text.strip().isdigit() and len(text) <= 12):
            raise _bad_line(path, line, text, "a whole number of milliseconds and nothing else")
        times[line - 1] = int(text)
        if line > 1 and times[line - 1] < times[line - 2]:
            raise _bad_line(path, line, text, "not less than the line above it")
    if not len(times) or times[-1] == 0:
        raise InputError(
            "cell.trace", path.name, "a file of deliveries that ends later than at 0 milliseconds"
        )
    return times


def _bad_line(path: Path, line: int, text: str, allowed: str) -> InputError:
    return InputError(
        "cell.trace",
        f"{path.name}, line {line}, {text[:40]!r}",
        allowed,
        "cell.trace_format mahimahi reads packet deliveries; csv reads tables",
    )
