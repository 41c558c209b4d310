"""The table of a validation: what each stage was predicted to take, and what it took.

Predicted are the seconds of the record. Measured are differences of one machine's monotonic clock:
a transfer from before its first byte is handed over until its last one is there, computing on the
client. The round is the server's, without the seconds in which links are changed, which no real
radio needs.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from airtune.deploy.links import BURST_BITS, HEADS
from airtune.federated.records.record import ClientRecord, RoundRecord
from airtune.validation.meter import Message

TRANSFER, COMPUTING, OVERHEAD, ROUND = "transfer", "computing", "overhead", "round"
UP = ("upload", "activations", "hidden_gradient", "adapter")
DOWN = ("broadcast", "hidden", "gradient")
TIMED = {
    "plan": "planning",
    "encode": "encoding",
    "aggregate": "aggregation",
    "evaluate": "evaluation",
    "write": "checkpoint",
}
"""Stages of the server's own clock, in words."""
DISPATCH = "dispatch"


@dataclass(frozen=True)
class Row:
    """One stage of one round; `client` None: the server's, or the round's.

    `link_s`: what the link takes by its own formula, `(8 bytes 1514/1448 - burst) / link_rate` of
    each message; overhead has no prediction.
    """

    round: int
    client: int | None
    stage: str
    kind: str
    predicted_s: float | None
    measured_s: float
    size: int | None = None
    link_s: float | None = None

    @property
    def ratio(self) -> float | None:
        """Measured over predicted; None without a prediction."""
        return self.measured_s / self.predicted_s if self.predicted_s else None


@dataclass(frozen=True)
class Measured:
    """A line of `measured.jsonl`, and the line of `timing.jsonl` of the same round."""

    round: int
    links_s: float
    late: int
    computing_s: Mapping[int, float]
    server_links_s: Mapping[int, float]
    messages: Sequence[Message]
    rates: Mapping[str, Mapping[int, float]]
    counters: Mapping[int, Mapping[str, int]]
    real_s: float
    stages: Mapping[str, float]

    @classmethod
    def read(cls, line: str, timing: Mapping[str, Any]) -> "Measured":
        """From the line and the timing of its round."""
        found = json.loads(line)
        starts = _by_client(found["link_rates"])
        up = {client: rates[0] for client, rates in starts.items()}
        down = {client: rates[1] for client, rates in starts.items()}
        gradient = _by_client(found["gradient_bps"])
        return cls(
            found["round"],
            found["links_s"],
            found["late"],
            _by_client(found["computing_s"]),
            _by_client(found["server_links_s"]),
            [Message(**message) for message in found["messages"]],
            {
                "broadcast": down,
                "hidden": gradient,
                "gradient": gradient,
                "adapter": _by_client(found["adapter_bps"]),
                **dict.fromkeys(("upload", "activations", "hidden_gradient"), up),
            },
            _by_client(found["counters"]),
            timing["real_s"],
            timing["stages"],
        )

    def of(self, client: int, stage: str, step: int | None = None) -> list[Message]:
        """The messages of a client in a stage, of one step or of all."""
        return [
            message
            for message in self.messages
            if (message.client, message.stage) == (client, stage) and step in (None, message.step)
        ]

    @property
    def steps(self) -> int:
        """Local steps of a split model; 0 for another."""
        return 1 + max((m.step for m in self.messages if m.stage == "activations"), default=-1)


def _by_client(found: Mapping[str, Any]) -> dict[int, Any]:
    return {int(client): value for client, value in found.items()}


def took(messages: Iterable[Message]) -> float:
    """Seconds of transfers together."""
    return sum(message.arrived_s - message.sent_s for message in messages)


def link_seconds(message: Message, rate_bps: float, overhead_share: float) -> float:
    """What a token bucket that is shaped to `rate (1 + overhead_share)` takes for a message [s]."""
    bits = 8 * message.size * (1.0 + HEADS) - BURST_BITS
    return max(0.0, bits) / (rate_bps * (1.0 + overhead_share))


def round_rows(record: RoundRecord, measured: Measured, overhead_share: float) -> list[Row]:
    """Every stage of a round, then its overhead and the round itself.

    `overhead_share` is that of the links (`ShapedLinks`).
    """
    rows: list[Row] = []
    split = measured.steps > 0
    for entry in record.clients:
        rows += _transfers(record.round, entry, measured, overhead_share)
        computed = _computed(entry.client, measured)
        rows.append(
            Row(record.round, entry.client, "computing", COMPUTING, entry.compute_s, computed)
        )
    if split:
        served = sum(_served(measured))
        rows.append(Row(record.round, None, "main server", COMPUTING, record.server_s, served))
    whole_s, path_s = measured.real_s - measured.links_s, critical_path_s(record, measured)
    known = {words: measured.stages.get(stage, 0.0) for stage, words in TIMED.items()}
    rest_s = whole_s - path_s - sum(known.values())
    if split:
        # What the server encodes within local steps is counted with its computing there.
        known["encoding"], rest_s = 0.0, rest_s + known["encoding"]
    rows += [
        Row(record.round, None, stage, OVERHEAD, None, seconds)
        for stage, seconds in {**known, DISPATCH: rest_s}.items()
    ]
    stages = "transfers and computing", "round with overhead"
    for stage, seconds in zip(stages, (path_s, whole_s), strict=True):
        rows.append(Row(record.round, None, stage, ROUND, record.latency_s, seconds))
    return rows


def _transfers(
    number: int, entry: ClientRecord, measured: Measured, overhead_share: float
) -> list[Row]:
    predicted: dict[str, float] = {"broadcast": entry.broadcast_s, "upload": entry.upload_s}
    if entry.stages_s is not None:
        predicted = {stage: entry.stages_s[stage] for stage in (*DOWN, *UP) if stage != "upload"}
    rows = []
    for stage, seconds in predicted.items():
        messages = measured.of(entry.client, stage)
        if not messages:
            continue
        rate_bps = measured.rates[stage][entry.client]
        link_s = sum(link_seconds(message, rate_bps, overhead_share) for message in messages)
        size = sum(message.payload for message in messages)
        rows.append(
            Row(number, entry.client, stage, TRANSFER, seconds, took(messages), size, link_s)
        )
    return rows


def _computed(client: int, measured: Measured) -> float:
    """Seconds in which a client computed: of a split model, all between what came and what went."""
    if not measured.steps:
        return measured.computing_s[client]
    own = sorted(
        (message for message in measured.messages if message.client == client),
        key=lambda message: message.sent_s,
    )
    return sum(
        after.sent_s - before.arrived_s
        for before, after in pairwise(own)
        if before.stage in DOWN and after.stage in UP
    )


def _phases(measured: Measured, step: int) -> list[tuple[str, str]]:
    """What comes up and what goes down, of each stay at the server in a step."""
    u_shaped = any(message.stage == "hidden" for message in measured.messages)
    if u_shaped:
        return [("activations", "hidden"), ("hidden_gradient", "gradient")]
    return [("activations", "gradient")]


def _served(measured: Measured) -> list[float]:
    """Seconds of the main server in each step, from the last message up to the last one down."""
    seconds = []
    for step in range(measured.steps):
        spent = -measured.server_links_s.get(step, 0.0)
        for up, down in _phases(measured, step):
            came = [m.arrived_s for m in measured.messages if (m.stage, m.step) == (up, step)]
            went = [m.sent_s for m in measured.messages if (m.stage, m.step) == (down, step)]
            spent += max(went) - max(came)
        seconds.append(spent)
    return seconds


def critical_path_s(record: RoundRecord, measured: Measured) -> float:
    """The round's transfers and computing, as the model adds them up, with measured seconds.

    The slowest client's broadcast, computing and upload; of a split model, of every phase between
    two waits the slowest client's part.
    """
    clients = [entry.client for entry in record.clients]
    if not measured.steps:
        return max(
            took(measured.of(client, "broadcast"))
            + measured.computing_s[client]
            + took(measured.of(client, "upload"))
            for client in clients
        )
    broadcast_s = max(took(measured.of(client, "broadcast")) for client in clients)
    adapter_s = max(took(measured.of(client, "adapter")) for client in clients)
    cut_s = sum(_cut_path(measured, clients))
    return broadcast_s + cut_s + sum(_served(measured)) + adapter_s


def _cut_path(measured: Measured, clients: Sequence[int]) -> list[float]:
    """Between two stays at the server the slowest client: down, computing, up."""
    phases: list[float] = []
    chains = {
        client: sorted((m for m in measured.messages if m.client == client), key=lambda m: m.sent_s)
        for client in clients
    }
    count = min(len(chain) for chain in chains.values()) // 2
    for k in range(count):
        spent = []
        for chain in chains.values():
            down, up = chain[2 * k], chain[2 * k + 1]
            seconds = up.sent_s - down.arrived_s
            seconds += 0.0 if down.stage == "broadcast" else down.arrived_s - down.sent_s
            seconds += 0.0 if up.stage == "adapter" else up.arrived_s - up.sent_s
            spent.append(seconds)
        phases.append(max(spent))
    return phases
