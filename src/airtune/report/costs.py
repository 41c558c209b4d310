"""What is spent round by round, read from the records."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from airtune.federated.records.fields import quantities
from airtune.federated.records.record import RoundRecord
from airtune.report.view import Records


@dataclass(frozen=True)
class Cost:
    """Something that adds up over rounds; `of` gives a round's part of it in `unit`."""

    key: str
    label: str
    unit: str
    of: Callable[[RoundRecord], float]


def _flops(record: RoundRecord) -> float:
    return float(sum(entry.flops for entry in record.clients))


def _field(key: str, of: Callable[[RoundRecord], float]) -> Cost:
    what = quantities(RoundRecord)[key]
    return Cost(key, what.label, what.unit, of)


TIME = _field("virtual_time_s", lambda record: record.latency_s)
UPLINK = Cost("uplink_bytes", "bytes sent up", "B", lambda record: record.uplink_bits / 8)
DOWNLINK = Cost("downlink_bytes", "bytes sent down", "B", lambda record: record.downlink_bits / 8)
ENERGY = _field("energy_j", lambda record: record.energy_j)
FLOPS = Cost("flops", "clients' computing", "FLOP", _flops)
COSTS = (TIME, UPLINK, DOWNLINK, ENERGY, FLOPS)
SERVER_COSTS = (
    _field("server_flops", lambda record: record.server_flops or 0.0),
    _field("server_energy_j", lambda record: record.server_energy_j or 0.0),
)
"""Of a split model; 0 for every other method, which has no main server."""


def spent(records: Records, cost: Cost) -> list[float]:
    """What was spent by the end of each round, from 0 before the first."""
    return [0.0, *accumulate(cost.of(record) for record in records)]
