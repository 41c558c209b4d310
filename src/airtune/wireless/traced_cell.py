"""A cell whose links are replayed from measured throughput.

A measured throughput R over a carrier of known width W is a spectral efficiency R / W, and a
client that gets the bandwidth b of our band then has the rate b R / W.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from airtune.errors import InputError
from airtune.quantities import FloatArray
from airtune.seeds import generator
from airtune.wireless.cell import CellSettings
from airtune.wireless.state import ChannelState
from airtune.wireless.trace import Gaps, Trace
from airtune.wireless.trace_files import TraceClock, read_packets, read_trace
from airtune.wireless.trace_layout import LAYOUTS, PACKETS, Layout

_LEAST_PEAK, _MOST_PEAK = 1e-4, 100.0
"""Usual spectral efficiency of a trace's fastest sample, bit/s/Hz: 8 layers of 256-QAM carry 59."""


class TracedCell:
    """Truth by measured throughput.

    Without a clock round t uses the t-th row. With one it has the mean throughput of the trace's
    time from `t T` to `(t + 1) T`, T = `round_interval_s`, whatever the virtual clock says: the
    channel of a round depends on its number alone. A trace starts over at its end.

    Traces are assigned to clients round-robin. The first client of each trace begins at its
    beginning; further ones begin at a drawn place, so that they do not move in step. Both
    directions use the efficiency, unless the downlink has traces of its own, assigned alike.
    Raises InputError where no trace that is used ever carries anything.
    """

    def __init__(self, settings: CellSettings, clients: int, seed: int) -> None:
        assert settings.trace_bandwidth_hz is not None
        self._width_hz = settings.trace_bandwidth_hz
        self._interval_s = settings.round_interval_s
        self._budget = settings.link_budget()
        uplink, downlink = cell_traces(settings)
        for trace in (*uplink, *downlink):
            _refuse_unusual(trace, settings)
        starts = generator(seed, "trace offset").random(clients)
        starts[: len(uplink)] = 0.0
        self._uplink = _Places(uplink, starts)
        self._downlink = _Places(downlink, starts) if downlink else None
        for places in self._uplink, self._downlink:
            if places is not None and places.are_silent:
                raise InputError(
                    "cell.trace",
                    ", ".join(dict.fromkeys(trace.name for trace in places.traces)),
                    "a trace with a throughput above 0 in some row",
                    "no client can ever send on it; choose other rows with cell.trace_where",
                )

    @property
    def samples(self) -> int:
        """Rounds after which every client has been through its trace."""
        both = (self._uplink, self._downlink)
        return max(places.rounds(self._interval_s) for places in both if places is not None)

    def state(self, round_index: int, _: object = None) -> ChannelState:
        """The channel of all clients in a round; a sample of 0 leaves the client out of reach."""
        rate = self._uplink.rates(round_index, self._interval_s)
        unknown = np.full(len(rate), np.nan)
        downlink = None
        if self._downlink is not None:
            downlink = self._downlink.rates(round_index, self._interval_s) / self._width_hz
        return ChannelState(
            round_index=round_index,
            position_m=np.full((len(rate), 2), np.nan),
            speed_m_s=unknown,
            line_of_sight=None,
            path_loss_db=unknown,
            shadowing_db=unknown,
            fading_gain=unknown,
            gain=unknown,
            spectral_efficiency=rate / self._width_hz,
            budget=self._budget,
            downlink_efficiency=downlink,
        )


class _Places:
    """Where each client is in its trace; `starts` [client] are shares of the trace's length."""

    def __init__(self, traces: Sequence[Trace], starts: FloatArray) -> None:
        self.traces = [traces[client % len(traces)] for client in range(len(starts))]
        length = np.array([trace.duration for trace in self.traces])
        timed = traces[0].edge_s is not None
        self._offset = starts * length if timed else np.floor(starts * length)
        self._timed, self._length = timed, length

    @property
    def are_silent(self) -> bool:
        """Whether no trace in use ever carries anything."""
        return not any(trace.rate_bps.any() for trace in self.traces)

    def rounds(self, interval_s: float) -> int:
        """Rounds after which every client has been through its trace."""
        longest = float(self._length.max())
        return int(np.ceil(longest / interval_s)) if self._timed else int(longest)

    def rates(self, round_index: int, interval_s: float) -> FloatArray:
        """Throughput of a round [client], bit/s."""
        if not self._timed:
            row = ((self._offset + round_index) % self._length).astype(np.int64)
            found = (t.rate_bps[index] for t, index in zip(self.traces, row, strict=True))
            return np.array(list(found))
        begin = self._offset + round_index * interval_s
        spans = zip(self.traces, begin.tolist(), strict=True)
        return np.array([trace.mean_bps(at, at + interval_s) for trace, at in spans])


def cell_traces(settings: CellSettings) -> tuple[list[Trace], list[Trace]]:
    """The traces of the uplink and of the downlink, every file with every column, files first.

    No trace of the downlink means that both directions use the uplink's.
    """
    layout = LAYOUTS.get(settings.trace_format, Layout())
    columns = _columns(settings.trace_column, layout.column)
    down_columns = _columns(settings.trace_downlink_column, layout.downlink_column)
    up_files, down_files = _several(settings.trace), _several(settings.trace_downlink)
    uplink = _read(settings, up_files, columns or [None])
    if not down_files and not down_columns:
        return uplink, []
    downlink = _read(settings, down_files or up_files, down_columns or columns or [None])
    if len(downlink) != len(uplink):
        raise InputError(
            "cell.trace_downlink" if down_files else "cell.trace_downlink_column",
            f"{len(downlink)} traces",
            f"as many as of the uplink, {len(uplink)}",
            "a client has one trace in each direction",
        )
    return uplink, downlink


def _columns(named: str | Sequence[str] | None, of_format: str | None) -> Sequence[str]:
    """The columns that the cell names, else that of the format; none where nothing is known."""
    return _several(named) or _several(of_format)


def _read(
    settings: CellSettings, files: Sequence[str], columns: Sequence[str | None]
) -> list[Trace]:
    layout = LAYOUTS.get(settings.trace_format)
    if layout is None:
        assert settings.trace_format == PACKETS
        return [read_packets(Path(file), settings.trace_window_s) for file in files]
    time_column = settings.trace_time_column or layout.time_column
    clock = None
    if time_column is not None:
        own = settings.trace_time_column is not None
        time_unit = settings.trace_time_unit or (None if own else layout.time_unit)
        clock = TraceClock(time_column, time_unit, Gaps(settings.trace_gaps, settings.trace_gap_s))
    unit = settings.trace_unit or layout.unit
    return [
        read_trace(Path(file), column, settings.trace_where, unit, clock)
        for file in files
        for column in columns
    ]


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


def _several(value: str | Sequence[str] | None) -> Sequence[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value
