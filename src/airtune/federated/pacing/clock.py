"""The clock of events: from one server step to the next, in the order of arrivals.

Clients whose updates arrive at the same moment are taken by their numbers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from airtune.cost.device import client_energy
from airtune.federated.context import RoundContext
from airtune.federated.pacing.own_tasks import own_links
from airtune.federated.pacing.rules import Kind, Pacing
from airtune.federated.pacing.uplink import Rate, Sending, next_end
from airtune.federated.records.in_flight import Flight


@final
@dataclass(frozen=True)
class Elapsed:
    """A server step in time: when it is made, how long after the last one [s], whose tasks ended.

    `ended` are by client, ascending; `flights` are still under way.
    """

    time_s: float
    latency_s: float
    ended: Mapping[int, Flight]
    flights: Mapping[int, Flight]


def until_step(
    context: RoundContext, pacing: Pacing, now_s: float, flights: Mapping[int, Flight]
) -> Elapsed:
    """Until there are as many updates as a step needs, or its period ends, or no task is left."""
    left, ended = dict(flights), dict[int, Flight]()
    rate = _rates(context, flights)
    time_s, end_s, updates = now_s, math.inf, 0
    while left and updates < pacing.updates:
        time_s, left = _next_arrival(context, left, time_s, end_s, rate)
        due = [n for n in sorted(left) if _arrives_s(left[n]) <= time_s]
        if not due:
            break
        for client in due:
            if updates < pacing.updates:
                ended[client] = left.pop(client)
                updates += not ended[client].is_silent
        if pacing.kind == Kind.SEMI and end_s == math.inf:
            end_s = pacing.period_end_s(time_s)
    if end_s < math.inf:
        time_s = end_s
    return Elapsed(time_s, _latency_s(now_s, time_s, ended), dict(sorted(ended.items())), left)


def _next_arrival(
    context: RoundContext, flights: Mapping[int, Flight], now_s: float, end_s: float, rate: Rate
) -> tuple[float, dict[int, Flight]]:
    """The time of the next arrival, or `end_s` [s], and all tasks as they are then."""
    known_s = min(map(_arrives_s, flights.values()))
    until_s = min(max(known_s, now_s), end_s)
    sending = {
        client: Sending(flight.ready_s, flight.left_bits, flight.band_hz_s)
        for client, flight in flights.items()
        if flight.arrives_s is None
    }
    if not sending:
        return until_s, dict(flights)
    time_s, over, later = next_end(now_s, sending, rate, context.bandwidth_hz, until_s)
    following = dict(flights)
    for client, one in later.items():
        flight = replace(flights[client], left_bits=one.left_bits, band_hz_s=one.band_hz_s)
        following[client] = _arrived(context, flight, time_s) if client in over else flight
    return time_s, following


def _arrived(context: RoundContext, flight: Flight, time_s: float) -> Flight:
    """The task whose last bit arrives now, charged for the time and the band that it took."""
    record, sending_s = flight.record, time_s - flight.ready_s
    computed_s = flight.started_s + (record.broadcast_s + record.compute_s)
    bits = float(context.costs.transfer.air_bits(record.uplink_bits))
    device = context.devices[record.client]
    charged = replace(
        record,
        upload_s=time_s - computed_s,
        bandwidth_hz=flight.band_hz_s / sending_s if sending_s > 0 else record.bandwidth_hz,
        rate_bps=bits / sending_s if sending_s > 0 else record.rate_bps,
        energy_j=client_energy(
            device, record.compute_s, sending_s, record.tx_power_w, flight.plan.speed
        ),
    )
    return replace(flight, record=charged, lasts_s=time_s - flight.started_s, arrives_s=time_s)


def _arrives_s(flight: Flight) -> float:
    return math.inf if flight.arrives_s is None else flight.arrives_s


def _latency_s(now_s: float, time_s: float, ended: Mapping[int, Flight]) -> float:
    """Time since the last step [s].

    What a task lasts that began with it, not a difference of two times, which is off by rounding.
    """
    lasted = [
        flight.lasts_s
        for flight in ended.values()
        if flight.lasts_s is not None and flight.started_s == now_s and flight.arrives_s == time_s
    ]
    return max(lasted, default=time_s - now_s)


def _rates(context: RoundContext, flights: Mapping[int, Flight]) -> Rate:
    """The true rate of each client under way, at a share of the band."""
    links = {
        client: own_links(context, flight.task, flight.plan)
        for client, flight in flights.items()
        if flight.arrives_s is None
    }
    return lambda client, share_hz: float(links[client].rate(np.array([share_hz]))[0])
