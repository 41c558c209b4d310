"""What a report is made from: records and plain values, nothing of a model or a channel."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airtune.federated.records.fields import quantities
from airtune.federated.records.record import ClientRecord, RoundRecord
from airtune.quantities import FloatArray, format_duration

Records = Sequence[RoundRecord]
MOST_CLIENTS = 40
"""Clients (or groups of equal ones) that a chart with a bar each still shows."""

STAGES = {
    stage: quantities(ClientRecord)[stage].label
    for stage in ("broadcast_s", "compute_s", "upload_s", "download_s", "server_s", "wait_s")
}
"""Client fields that add up to when a client is done, in words; the last three of split models."""


@dataclass(frozen=True)
class RunView:
    """One run as its page shows it.

    `names` and `position_m` (east, north; NaN where unknown) are of round 1, per client. `limits`
    are the constraints in force by name (`deadline_s`, `latency_target_s`, `pruning_budget`,
    `radius_m`); `weights` the clients' shares in the objective, any scale.
    """

    summary: Mapping[str, Any]
    records: Records
    names: Sequence[str]
    position_m: Sequence[Sequence[float]]
    weights: FloatArray | None
    limits: Mapping[str, float] = field(default_factory=dict)
    experiment_yaml: str = ""
    shannon: bool = False
    timings: Sequence[Mapping[str, Any]] = ()

    @property
    def rounds(self) -> list[int]:
        """The numbers of the rounds."""
        return [record.round for record in self.records]


def short_name(name: str) -> str:
    """`client 6 (pixel-9)` as `6 pixel-9`, where an axis names them as clients."""
    return name.removeprefix("client ").replace("(", "").replace(")", "")


def stage_s(entry: ClientRecord, stages: Iterable[str] = STAGES) -> float:
    """Seconds that a client spent in some stages."""
    return float(sum(getattr(entry, stage) or 0.0 for stage in stages))


def entries(records: Records) -> Iterator[tuple[int, ClientRecord]]:
    """Every client's entry with the number of its round."""
    for record in records:
        for entry in record.clients:
            yield record.round, entry


def idle_sentence(summary: Mapping[str, Any]) -> str:
    """The rounds in which no client could send, and their part of the time; nothing without one."""
    if "idle_s" not in summary:
        return ""
    return (
        f"In {summary['idle_rounds']} of {summary['rounds']} rounds no client could send: "
        f"{format_duration(summary['idle_s'])} of {format_duration(summary['virtual_time_s'])} are "
        "waiting."
    )


def scheduled(records: Records) -> list[int]:
    """Clients that took part in some round, ascending."""
    return sorted({entry.client for _, entry in entries(records)})


def numbers(found: Mapping[str, Any], most: int) -> dict[str, float]:
    """Every number of a mapping, nested names joined by dots.

    A list counts as its mean, and so does a field with more than `most` numbers in it (a value for
    each of a hundred matrices is no set of curves).
    """
    named: dict[str, float] = {}
    for key, value in found.items():
        leaves = _leaves(value, key)
        if len(leaves) > most:
            leaves = {key: sum(leaves.values()) / len(leaves)}
        named |= leaves
    return named


def _leaves(value: Any, key: str) -> dict[str, float]:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return {}
    if isinstance(value, int | float):
        return {key: float(value)}
    if isinstance(value, Mapping):
        found: dict[str, float] = {}
        for name, part in value.items():
            found |= _leaves(part, f"{key}.{name}")
        return found
    plain = [float(x) for x in value if isinstance(x, int | float) and not isinstance(x, bool)]
    return {key: sum(plain) / len(plain)} if plain and len(plain) == len(value) else {}
