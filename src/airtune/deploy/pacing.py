"""A sender that keeps to its share of the band, so that the planned allocation is real."""

import time
from collections.abc import Callable, Iterable, Iterator


def paced(
    pieces: Iterable[bytes],
    rate_bps: float | None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[bytes]:
    """The pieces, no faster than `rate_bps` on average since the first [bit/s]; None: at once.

    Piece k is released once the bits before it have taken their time, `t_k = t_0 + sum_{j<k} 8 n_j
    / rate`: a pause is never made up for by a burst of more than what is late.
    """
    due = clock()
    for piece in pieces:
        if rate_bps is not None:
            now = clock()
            if due > now:
                sleep(due - now)
            due = max(due, now - 8 * len(piece) / rate_bps) + 8 * len(piece) / rate_bps
        yield piece
