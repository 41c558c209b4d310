"""Channels replayed from measured throughput.

A measured throughput R over a carrier of known width W is a spectral efficiency R / W, and a
client that gets the bandwidth b of our band then has the rate b R / W.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from airtune.csv_table import CsvTable, plain_number, read_csv
from airtune.errors import InputError
from airtune.quantities import FloatArray
from airtune.seeds import generator
from airtune.wireless.cell import TRACE_UNITS, CellSettings
from airtune.wireless.state import ChannelState

_UNIT = re.compile(r"(?:^|_)([kmg]?)bps$", re.IGNORECASE)
_PREFIX = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_UNIT_NAMES = ", ".join(TRACE_UNITS)
_SLOWEST_BPS, _FASTEST_BPS = 1.0, 1e13
"""A sample other than 0 lies between: no radio link is measured outside."""

_LEAST_PEAK, _MOST_PEAK = 1e-4, 100.0
"""Usual spectral efficiency of a trace's fastest sample, bit/s/Hz: 8 layers of 256-QAM carry 59."""


@dataclass(frozen=True)
class Trace:
    """A series of measured throughput.

    Attributes:
        name: file and column, for messages.
        rate_bps: samples in the order of the file, bit/s; 0 where the link was down.
    """

    name: str
    rate_bps: FloatArray


def read_trace(
    path: Path,
    column: str | None = None,
    where: Mapping[str, str] | None = None,
    unit: str | None = None,
) -> Trace:
    """One column of a csv file as a trace, in bit/s.

    The column's name ends in its unit: bps, kbps, Mbps or Gbps, also in lower case, for bits;
    Bps, kBps, MBps or GBps, with the capital B of bytes, for 8 bits each.

    Args:
        path: csv file with a header line.
        column: column name; None takes the only column with such a unit.
        where: use only rows that have these values, for example `{"protocol": "TCP"}`.
        unit: one of `TRACE_UNITS`, instead of the one in the name.

    Raises:
        InputError: file or column missing, a unit that is neither bits nor bytes (MBPS), a sample
            that is not a plain number or not between 1 bit/s and 10 Tbit/s (with its line), or no
            sample at all. A sample of 0 is data: the link was down.
    """
    table = read_csv(path, "cell.trace")
    chosen = _choose_column(table, column)
    bits = TRACE_UNITS[unit] if unit else _bits_of(chosen, table.name)
    for key in where or {}:
        if key not in table.columns:
            raise InputError(
                "cell.trace_where", key, f"a column of {table.name}: {table.shown_columns}"
            )
    samples = list(_samples(table, chosen, bits, where or {}))
    if not samples:
        raise InputError("cell.trace", str(path), "a csv file with at least one row to use")
    return Trace(f"{table.name}:{chosen}", np.array(samples))


def _choose_column(table: CsvTable, column: str | None) -> str:
    if column is not None:
        if column.strip() not in table.columns:
            raise InputError(
                "cell.trace_column", column, f"a column of {table.name}: {table.shown_columns}"
            )
        return column.strip()
    candidates = [name for name in table.columns if _UNIT.search(name)]
    if len(candidates) != 1:
        found = ", ".join(candidates) or "none"
        raise InputError(
            "cell.trace_column",
            None,
            f"given, since {table.name} has not one throughput column",
            f"columns that end in a unit ({_UNIT_NAMES}): {found}",
        )
    return candidates[0]


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


def _samples(
    table: CsvTable, column: str, bits: float, where: Mapping[str, str]
) -> Iterator[float]:
    for line, row in table.rows:
        if any(row[key] != str(value).strip() for key, value in where.items()):
            continue
        value = plain_number(row[column])
        if value is None or value < 0:
            raise _bad_sample(table, line, column, row[column], "a throughput >= 0, such as 12.5")
        rate = value * bits
        if rate != 0 and not _SLOWEST_BPS <= rate <= _FASTEST_BPS:
            allowed = "0, or from 1 bit/s to 10 Tbit/s"
            raise _bad_sample(table, line, column, row[column], allowed)
        yield rate


def _bad_sample(table: CsvTable, line: int, column: str, text: str, allowed: str) -> InputError:
    return InputError(
        "cell.trace",
        f"{table.name}, line {line}, {column} {text!r}",
        allowed,
        "mend the cell, or choose the rows to use with cell.trace_where",
    )


class TracedCell:
    """Truth by measured throughput: round t uses the t-th sample, and starts over at the end.

    Traces are assigned to clients round-robin. The first client of each trace begins at its first
    row; further ones begin at a drawn row, so that they do not move in step. Both directions use
    the efficiency. Raises InputError where no trace that is used ever carries anything.
    """

    def __init__(self, settings: CellSettings, clients: int, seed: int) -> None:
        assert settings.trace_bandwidth_hz is not None
        self._traces = _traces(settings)
        for trace in self._traces:
            _refuse_unusual(trace, settings)
        self._width_hz = settings.trace_bandwidth_hz
        self._budget = settings.link_budget()
        self._source = np.arange(clients) % len(self._traces)
        starts = generator(seed, "trace offset").random(clients)
        length = np.array([len(self._traces[source].rate_bps) for source in self._source])
        first = np.arange(clients) < len(self._traces)
        self._offset = np.where(first, 0, np.floor(starts * length)).astype(np.int64)
        self._length = length
        if not any(self._traces[source].rate_bps.any() for source in set(self._source.tolist())):
            raise InputError(
                "cell.trace",
                ", ".join(map(str, _several(settings.trace))),
                "a trace with a throughput above 0 in some row",
                "no client can ever send on it; choose other rows with cell.trace_where",
            )

    @property
    def samples(self) -> int:
        """Rounds after which every client has been through its trace."""
        return int(self._length.max())

    def state(self, round_index: int, _: object = None) -> ChannelState:
        """The channel of all clients in a round; a sample of 0 leaves the client out of reach."""
        row = (self._offset + round_index) % self._length
        rate = [
            self._traces[source].rate_bps[index]
            for source, index in zip(self._source, row, strict=True)
        ]
        unknown = np.full(len(row), np.nan)
        return ChannelState(
            round_index=round_index,
            position_m=np.full((len(row), 2), np.nan),
            speed_m_s=unknown,
            line_of_sight=None,
            path_loss_db=unknown,
            shadowing_db=unknown,
            fading_gain=unknown,
            gain=unknown,
            spectral_efficiency=np.array(rate) / self._width_hz,
            budget=self._budget,
        )


def _refuse_unusual(trace: Trace, settings: CellSettings) -> None:
    """Refuse a trace whose fastest sample is beyond, or far below, any spectral efficiency."""
    assert settings.trace_bandwidth_hz is not None
    peak = float(trace.rate_bps.max()) / settings.trace_bandwidth_hz
    if peak > 0 and not _LEAST_PEAK <= peak <= _MOST_PEAK and "trace" not in settings.meant:
        raise InputError(
            "cell.trace",
            f"{trace.name}, at most {peak:.3g} bit/s/Hz over trace_bandwidth_hz",
            f"between {_LEAST_PEAK:g} and {_MOST_PEAK:g} bit/s/Hz at its fastest, which is usual",
            "check the unit of the column and trace_bandwidth_hz in hertz, or list trace in "
            "cell.unusual_values",
        )


def _traces(settings: CellSettings) -> list[Trace]:
    """Every file with every column, files first."""
    paths = _several(settings.trace)
    columns: Sequence[str | None] = _several(settings.trace_column) or [None]
    return [
        read_trace(Path(path), column, settings.trace_where, settings.trace_unit)
        for path in paths
        for column in columns
    ]


def _several(value: str | Sequence[str] | None) -> Sequence[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value
