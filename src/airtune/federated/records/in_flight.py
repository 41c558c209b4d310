"""Tasks under way between the server's steps, as a checkpoint holds them.

What a task sends, and the broadcast that it answers, lie in a file of its own, written once
(`carried.py`); everything else is JSON.
"""

from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import Tensor

from airtune.federated.records.carried import CarriedStates, Saved, with_fresh
from airtune.federated.records.record import ClientRecord
from airtune.round_plan import ClientPlan

PAYLOAD, BROADCAST = "payload", "broadcast"


@final
@dataclass(frozen=True)
class Flight:
    """One task of one client, from its broadcast until its update arrives or is lost.

    Attributes:
        task: how many tasks the client began before; its random draws are keyed by it.
        version: server steps made before its broadcast.
        started_s: when the server broadcast [s].
        lasts_s: from then until the update is there [s]; None while its rate may still change.
        arrives_s: when that is [s]; None likewise.
        record: what it is charged.
        plan: what was planned for it.
        train_loss: mean loss of its steps; None where the client falls silent.
        ready_s: when it may send its first bit [s]. left_bits: on the air, not yet sent at the
            server's last step. band_hz_s: its share of the band, integrated so far. Those three
            count where `lasts_s` is None.
    """

    task: int
    version: int
    started_s: float
    lasts_s: float | None
    arrives_s: float | None
    record: ClientRecord
    plan: ClientPlan
    train_loss: float | None
    ready_s: float = 0.0
    left_bits: float = 0.0
    band_hz_s: float = 0.0

    @property
    def is_silent(self) -> bool:
        """Whether nothing will arrive."""
        return self.train_loss is None

    def to_json(self) -> dict[str, Any]:
        """For the header of a checkpoint."""
        plain = {
            name: value for name, value in vars(self).items() if name not in ("record", "plan")
        }
        return {**plain, "record": dict(self.record), "plan": asdict(self.plan)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        plan = dict(found["plan"])
        if plan["kept_ranks"] is not None:
            plan["kept_ranks"] = tuple(plan["kept_ranks"])
        record = ClientRecord.read(found["record"])
        return cls(**{**found, "record": record, "plan": ClientPlan(**plan)})


@final
@dataclass(frozen=True)
class InFlight:
    """All tasks under way. `sent` has the bytes of those that answer, by client.

    `begun` counts the tasks that each client has begun, or should have begun and could not;
    `downlink_free_s` is when the last broadcast is over.
    """

    flights: Mapping[int, Flight] = field(default_factory=dict)
    begun: Mapping[int, int] = field(default_factory=dict)
    sent: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    downlink_free_s: float = 0.0

    def payload(self, client: int) -> bytes:
        """What the client's task sends."""
        return _bytes(self.sent[client][PAYLOAD])

    def broadcast(self, client: int) -> bytes:
        """What the client's task began with."""
        return _bytes(self.sent[client][BROADCAST])

    def with_sent(self, sent: Mapping[int, tuple[bytes, bytes]]) -> Self:
        """With the payloads and broadcasts of tasks that have begun."""
        fresh = {
            client: {PAYLOAD: _tensor(payload), BROADCAST: _tensor(broadcast)}
            for client, (payload, broadcast) in sent.items()
        }
        return replace(self, sent=with_fresh(self.sent, fresh))

    def written(self, folder: Path, rounds_done: int) -> Self:
        """With nothing in memory."""
        return replace(self, sent=with_fresh(self.sent, {}).written(folder, rounds_done))

    def without(self, clients: Set[int]) -> Self:
        """After the tasks of these clients."""
        flights = {n: flight for n, flight in self.flights.items() if n not in clients}
        return replace(self, flights=flights, sent=with_fresh(self.sent, {}).without(clients))

    def to_json(self) -> dict[str, Any]:
        """For the header of a checkpoint, once `sent` is in files."""
        assert isinstance(self.sent, CarriedStates), "files are written before the header"
        return {
            "flights": {str(client): flight.to_json() for client, flight in self.flights.items()},
            "begun": {str(client): count for client, count in self.begun.items()},
            "sent": {str(client): saved for client, saved in self.sent.index.items()},
            "downlink_free_s": self.downlink_free_s,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any], folder: Path) -> Self:
        """The inverse of `to_json`; `folder` has the files."""
        index = {int(client): Saved(*saved) for client, saved in found["sent"].items()}
        return cls(
            {int(n): Flight.from_json(flight) for n, flight in found["flights"].items()},
            {int(n): count for n, count in found["begun"].items()},
            CarriedStates(folder, index),
            found["downlink_free_s"],
        )


def _tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()
