"""What files of measured throughput look like: units, and the columns of known data sets."""

from dataclasses import dataclass
from typing import Literal, get_args

TraceUnit = Literal[
    "bps",
    "kbps",
    "Mbps",
    "Gbps",
    "Bps",
    "kBps",
    "MBps",
    "GBps",
    "bit/s",
    "kbit/s",
    "Mbit/s",
    "Gbit/s",
    "byte/s",
    "kbyte/s",
    "Mbyte/s",
    "Gbyte/s",
]
_PREFIX = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_BITS = {"bps": 1.0, "Bps": 8.0, "bit/s": 1.0, "byte/s": 8.0}
TRACE_UNITS = {
    prefix + unit: factor * bits
    for unit, bits in _BITS.items()
    for prefix, factor in _PREFIX.items()
}
"""Units of measured throughput in bit/s; a capital B is a byte."""
SHORT_UNITS = get_args(TraceUnit)[:8]
"""Those that the name of a column may end in."""

TimeUnit = Literal["s", "ms", "us", "timestamp"]
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}

TraceFormat = Literal["csv", "ucc-5g", "5gophers", "mahimahi"]
PACKETS = "mahimahi"
"""The one format without columns."""


@dataclass(frozen=True)
class Layout:
    """What a data set's columns are, where the cell does not say; None: nothing is known.

    Attributes:
        column: throughput of the uplink, or of both directions.
        downlink_column: throughput of the downlink; None: that of `column`.
        unit: of the throughput, one of `TRACE_UNITS`.
        time_column: when each sample was taken.
        time_unit: of the time column.
    """

    column: str | None = None
    downlink_column: str | None = None
    unit: TraceUnit | None = None
    time_column: str | None = None
    time_unit: TimeUnit | None = None


LAYOUTS = {
    "csv": Layout(),
    # G-NetTrack Pro's log: kbit/s, a row a second; Raca et al., MMSys 2020, table 1.
    "ucc-5g": Layout("UL_bitrate", "DL_bitrate", "kbps", "Timestamp", "timestamp"),
    # One sample a second; Narayanan et al., WWW 2020.
    "5gophers": Layout(time_column="seq_num", time_unit="s"),
}
"""Data sets in csv files, by the name that `cell.trace_format` gives them."""
