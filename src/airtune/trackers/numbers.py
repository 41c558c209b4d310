"""The numbers of a round as trackers get them, made from its record and nothing else.

Names and units are those of `rounds.jsonl`, but that bits are bytes: `uplink_bits` is sent as
`uplink_bytes`, an eighth of it. Groups stand before a slash: `round/`, `plan/`, `measured/`, and
`client-0/` for each client or, for many clients, `clients/`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from airtune.federated.records.record import RoundRecord

MOST_CLIENTS = 64
"""Registered clients up to which each has scalars of its own."""
_GROUPED = ("plan", "measured", "clients", "skipped", "round")
_BITS, _BYTES = "_bits", "_bytes"


def numbers_of(record: RoundRecord, *, each_client: bool) -> dict[str, float]:
    """Every number of a record by its name with the group in front.

    Texts and lists have no place in a curve and are left out. Without `each_client` the cohort's
    least, mean and greatest stand for the clients.
    """
    found = dict(_named("round", {k: v for k, v in record.items() if k not in _GROUPED}))
    found["round/clients"] = len(record.clients)
    found["round/skipped"] = len(record.skipped)
    found |= _named("plan", record.plan or {})
    found |= _named("measured", record.measured or {})
    if each_client:
        for entry in record.clients:
            own = {key: value for key, value in entry.items() if key != "client"}
            found |= _named(f"client-{entry.client}", own)
    else:
        found |= _of_many(record)
    return found


def _named(group: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _named(f"{group}/{key}", value)
        elif isinstance(value, int | float):
            bits = key.endswith(_BITS)
            name = key.removesuffix(_BITS) + _BYTES if bits else key
            yield f"{group}/{name}", value / 8 if bits else float(value)


def _of_many(record: RoundRecord) -> Iterator[tuple[str, float]]:
    values: dict[str, list[float]] = defaultdict(list)
    for entry in record.clients:
        own = {key: value for key, value in entry.items() if key != "client"}
        for name, value in _named("clients", own):
            values[name].append(value)
    for name, all_of in values.items():
        yield f"{name}/least", min(all_of)
        yield f"{name}/mean", fmean(all_of)
        yield f"{name}/greatest", max(all_of)
