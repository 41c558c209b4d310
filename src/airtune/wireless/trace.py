"""Channels replayed from measured throughput.

A measured throughput R over a carrier of known width W is a spectral efficiency R / W, and a
client that gets the bandwidth b of our band then has the rate b R / W.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from airtune.errors import InputError
from airtune.files import read_text
from airtune.quantities import FloatArray
from airtune.seeds import generator
from airtune.wireless.cell import CellSettings
from airtune.wireless.state import ChannelState

_BITS = {"bps": 1.0, "kbps": 1e3, "mbps": 1e6, "gbps": 1e9}
_UNIT = re.compile(r"(?:^|_)([kmg]?bps)$", re.IGNORECASE)


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
    path: Path, column: str | None = None, where: Mapping[str, str] | None = None
) -> Trace:
    """One column of a csv file as a trace; its name ends in its unit: bps, kbps, mbps or gbps.

    Args:
        path: csv file with a header line.
        column: column name; None takes the only column with such a unit.
        where: use only rows that have these values, for example `{"protocol": "TCP"}`.

    Raises:
        InputError: file or column missing, a sample that is empty, negative or not a number (with
            its line), or no sample at all. A sample of 0 is data: the link was down.
    """
    reader = csv.DictReader(StringIO(read_text(path, "cell.trace")))
    names = [name for name in reader.fieldnames or [] if name]
    chosen = _choose_column(path, names, column)
    unit = _UNIT.search(chosen)
    if unit is None:
        raise InputError(
            "cell.trace_column", chosen, f"a column of {path.name} in bps, kbps, mbps or gbps",
            "its name must end in the unit, like throughput_mbps",
        )  # fmt: skip
    for key in where or {}:
        if key not in names:
            raise InputError(
                "cell.trace_where", key, f"a column of {path.name}: {', '.join(names)}"
            )
    samples = list(_samples(path, reader, chosen, where or {}))
    if not samples:
        raise InputError("cell.trace", str(path), "a csv file with at least one row to use")
    return Trace(f"{path.name}:{chosen}", np.array(samples) * _BITS[unit[1].lower()])


def _choose_column(path: Path, names: Sequence[str], column: str | None) -> str:
    if column is not None:
        if column not in names:
            raise InputError(
                "cell.trace_column", column, f"a column of {path.name}: {', '.join(names)}"
            )
        return column
    candidates = [name for name in names if _UNIT.search(name)]
    if len(candidates) != 1:
        found = ", ".join(candidates) or "none"
        raise InputError(
            "cell.trace_column", None, f"given, since {path.name} has not one throughput column",
            f"columns that end in bps, kbps, mbps or gbps: {found}",
        )  # fmt: skip
    return candidates[0]


def _samples(
    path: Path, reader: "csv.DictReader[str]", column: str, where: Mapping[str, str]
) -> Iterator[float]:
    for row in reader:
        if any(row[key] != str(value) for key, value in where.items()):
            continue
        text = row[column] or ""
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not 0 <= value < float("inf"):
            raise InputError(
                "cell.trace", f"{path.name}, line {reader.line_num}, {column} {text!r}",
                "a throughput >= 0", "choose the rows to use with cell.trace_where",
            )  # fmt: skip
        yield value


class TracedCell:
    """Truth by measured throughput: round t uses the t-th sample, and starts over at the end.

    Clients take the traces in turn. The first client of each trace begins at its first row; further
    ones begin at a drawn row, so that they do not move in step. Both directions use the efficiency.
    """

    def __init__(self, settings: CellSettings, clients: int, seed: int) -> None:
        assert settings.trace_bandwidth_hz is not None
        self._traces = _traces(settings)
        self._width_hz = settings.trace_bandwidth_hz
        self._budget = settings.link_budget()
        self._source = np.arange(clients) % len(self._traces)
        starts = generator(seed, "trace offset").random(clients)
        length = np.array([len(self._traces[source].rate_bps) for source in self._source])
        first = np.arange(clients) < len(self._traces)
        self._offset = np.where(first, 0, np.floor(starts * length)).astype(np.int64)
        self._length = length

    def state(self, round_index: int, _: object = None) -> ChannelState:
        """The channel of everybody in a round; a sample of 0 leaves the client out of reach."""
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


def _traces(settings: CellSettings) -> list[Trace]:
    """Every file with every column, files first."""
    paths = _several(settings.trace)
    columns: Sequence[str | None] = _several(settings.trace_column) or [None]
    return [
        read_trace(Path(path), column, settings.trace_where) for path in paths for column in columns
    ]


def _several(value: str | Sequence[str] | None) -> Sequence[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value
