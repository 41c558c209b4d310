"""The band divided among those that send at a moment (processor sharing), event by event.

With m clients sending, each has B / m of the band and its rate at that share. Rates change whenever
a client begins or ends sending, and are constant in between, so that the times of the events are
exact.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

from airtune.errors import InfeasibleError

Rate = Callable[[int, float], float]
"""Bit rate of a client at a share of the band: (client, Hz) -> bit/s."""


@final
@dataclass(frozen=True)
class Sending:
    """An upload: its first bit may go at `ready_s`, and `left_bits` on the air remain.

    `band_hz_s` is the integral of its share of the band so far [Hz s].
    """

    ready_s: float
    left_bits: float
    band_hz_s: float = 0.0


def next_end(
    now_s: float,
    sending: Mapping[int, Sending],
    rate: Rate,
    bandwidth_hz: float,
    until_s: float = math.inf,
) -> tuple[float, frozenset[int], dict[int, Sending]]:
    """Until the next upload ends, or `until_s`: the time, whose uploads end then, and the rest.

    Uploads that end are in the answer with 0 bits left. Several may end at the same moment.
    """
    state = dict(sending)
    while True:
        active = sorted(n for n, one in state.items() if one.ready_s <= now_s)
        begins_s = min((one.ready_s for one in state.values() if one.ready_s > now_s), default=None)
        share_hz = bandwidth_hz / max(len(active), 1)
        rates = {client: rate(client, share_hz) for client in active}
        ends_s = {
            client: now_s + state[client].left_bits / rates[client]
            for client in active
            if rates[client] > 0
        }
        time_s = min([until_s, *ends_s.values(), *([] if begins_s is None else [begins_s])])
        if time_s == math.inf:
            raise InfeasibleError(
                f"Clients {active} have no uplink at {share_hz:g} Hz each, and none will ever send "
                "more: give more bandwidth or transmit power."
            )
        ended = frozenset(client for client, end_s in ends_s.items() if end_s == time_s)
        for client in active:
            one, spent_s = state[client], time_s - now_s
            left = 0.0 if client in ended else max(one.left_bits - rates[client] * spent_s, 0.0)
            state[client] = replace(
                one, left_bits=left, band_hz_s=one.band_hz_s + share_hz * spent_s
            )
        if ended or time_s == until_s:
            return time_s, ended, state
        now_s = time_s
