"""What a link carries, measured by a client when it joins: goodput both ways and the round trip."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from airtune.deploy.connection import Connection
from airtune.deploy.messages import PROBE, TAKEN, Probe, Taken
from airtune.deploy.wire import Frame, chunked, read_frame

FIRST_BYTES, MOST_BYTES = 32 * 1024, 4 * 1024 * 1024
AIM_S = 1.0
"""The second probe of a direction is as long as the first one's rate carries in so many seconds."""
ROUND_TRIPS = 5


@dataclass(frozen=True)
class Rates:
    """Goodput of the whole link [bit/s] and the round trip of a short call [s]; None: unknown."""

    uplink_bps: float | None = None
    downlink_bps: float | None = None
    round_trip_s: float | None = None


def probe(connection: Connection) -> Rates:
    """Measure both directions, each with a short and a longer transfer.

    The goodput is 8 bytes / (seconds - round trip), on this machine's monotonic clock.
    """
    while read_frame([connection.unary("ProbeTurn", b"")], {}).read(TAKEN, Taken).sentence:
        pass
    trip_s = min(_seconds(lambda: _up(connection, 1)) for _ in range(ROUND_TRIPS))
    return Rates(
        _goodput(lambda count: _up(connection, count), trip_s),
        _goodput(lambda count: _down(connection, count), trip_s),
        trip_s,
    )


def _goodput(transfer: Callable[[int], None], trip_s: float) -> float:
    first_bps = _rate(transfer, FIRST_BYTES, trip_s)
    count = int(min(max(first_bps * AIM_S / 8, FIRST_BYTES), MOST_BYTES))
    return _rate(transfer, count, trip_s)


def _rate(transfer: Callable[[int], None], count: int, trip_s: float) -> float:
    seconds = _seconds(lambda: transfer(count))
    return 8 * count / max(seconds - trip_s, 1e-4)


def _seconds(action: Callable[[], None]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def _up(connection: Connection, count: int) -> None:
    answer = connection.upload("ProbeUp", chunked(bytes(count)))
    read_frame([answer], {}).read(PROBE, Probe)


def _down(connection: Connection, count: int) -> None:
    request = Frame.of(PROBE, Probe(bytes=count)).encode()
    for _ in connection.download("ProbeDown", request):
        pass
