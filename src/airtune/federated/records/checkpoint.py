"""Checkpoints: one file per round, whole or absent, with a digest that damage cannot pass.

A checkpoint is a safetensors file. Its tensors are the adapter and what the server carries over;
its metadata holds the JSON state (the virtual clock among it), the length and digest of
`rounds.jsonl` at that moment (a chain over its lines, so that a round costs its own line), what the
run rests on (`fingerprint.py`), and a SHA-256 over all of it. What clients carry over lies in files
of its own (`carried.py`), which the state names. The newest two are kept, so that a damaged newest
one costs one round, not the run.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from airtune.errors import AirtuneError, foreign_code
from airtune.federated.records.carried import CarriedStates, Saved, remove_old, with_fresh
from airtune.federated.records.fingerprint import Fingerprint
from airtune.federated.records.in_flight import InFlight
from airtune.files import make_place, write_bytes_atomic


@final
@dataclass(frozen=True)
class Clock:
    """Seconds of simulated time and joules of the clients' energy since round 0."""

    time_s: float = 0.0
    energy_j: float = 0.0

    def charge(self, latency_s: float, energy_j: float) -> "Clock":
        """The clock after a round. Infinity or NaN would hide a mistake, so neither is taken."""
        if not (0.0 <= latency_s < float("inf") and 0.0 <= energy_j < float("inf")):
            raise ValueError(f"a round cannot last {latency_s} s and use {energy_j} J")
        return Clock(self.time_s + latency_s, self.energy_j + energy_j)


@dataclass(frozen=True)
class RecordsMark:
    """The first `length` bytes of a file of lines. `digest` is empty for none, or where unknown.

    With h_0 empty, h_n = SHA-256(h_(n-1) + line n), each h in hexadecimal.
    """

    length: int = 0
    digest: str = ""

    def extended(self, path: Path) -> "RecordsMark":
        """The mark of the whole file, from the lines after this mark alone.

        From all lines where this mark has no digest of its own.
        """
        content = path.read_bytes() if path.exists() else b""
        start = self.length if self.digest else 0
        return RecordsMark(len(content), _chained(self.digest if start else "", content[start:]))

    def holds(self, path: Path) -> bool:
        """Whether the file still begins with the same lines; unknown counts as yes."""
        if not self.digest:
            return True
        with path.open("rb") as stream:
            return _chained("", stream.read(self.length)) == self.digest


def _chained(digest: str, lines: bytes) -> str:
    for line in lines.splitlines(keepends=True):
        digest = hashlib.sha256(digest.encode() + line).hexdigest()
    return digest


FORMAT = 2
"""Format 1, which was not named, held neither a fingerprint nor the digest of the records."""
KEPT = 2
_ADAPTER, _CARRIED, _SERVER, _SHARDS = "adapter/", "carried/", "server/", "fingerprint/shards"
_DIGEST_LENGTH = 64


@dataclass(frozen=True)
class ServerState:
    """All that the next round depends on. `rounds_done` is also the next round's index.

    `start_loss` is the test loss before round 1, for the closing summary; `records` stands for the
    rounds written so far. `in_flight` are the tasks under way, where rounds are not synchronous.
    Random draws come from (seed, purpose, round, client), so the round index IS the random state.
    """

    adapter: Mapping[str, Tensor]
    rounds_done: int = 0
    clock: Clock = field(default_factory=Clock)
    planner: Mapping[str, Any] = field(default_factory=dict)
    carried: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    server: Mapping[str, Tensor] = field(default_factory=dict)
    start_loss: float = 0.0
    stopped: str | None = None
    records: RecordsMark = field(default_factory=RecordsMark)
    in_flight: InFlight | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A state, how many bytes of `rounds.jsonl` belong to it, and what its run rests on."""

    state: ServerState
    records_length: int
    fingerprint: Fingerprint | None = None


class NewerFormatError(AirtuneError):
    """A file of a later version; to fall back to an older one would lose what it holds."""


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].contiguous().numpy().tobytes())
    return total.hexdigest()


def checkpoint_path(folder: Path, rounds_done: int) -> Path:
    """`checkpoints/round-00012.safetensors` is the state after twelve rounds."""
    return folder / f"round-{rounds_done:05d}.safetensors"


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> ServerState:
    """Write atomically, then remove all but the newest two.

    The state comes back with what clients carry on disk, in a folder beside the checkpoints' own.
    """
    from safetensors.torch import save

    state = checkpoint.state
    carried = with_fresh(state.carried, {}).written(clients_folder(folder), state.rounds_done)
    known = checkpoint.fingerprint
    under_way = state.in_flight
    if under_way is not None:
        under_way = under_way.written(in_flight_folder(folder), state.rounds_done)
    header = json.dumps(
        {
            "format": FORMAT,
            "rounds_done": state.rounds_done,
            "time_s": state.clock.time_s,
            "energy_j": state.clock.energy_j,
            "planner": dict(state.planner),
            "start_loss": state.start_loss,
            "stopped": state.stopped,
            "records_length": checkpoint.records_length,
            "records_digest": state.records.digest,
            "keys": None if known is None else dict(known.keys),
            "contents": None if known is None else dict(known.contents),
            "carried": {str(client): saved for client, saved in carried.index.items()},
            **({} if under_way is None else {"in_flight": under_way.to_json()}),
        },
        sort_keys=True,
    )
    tensors = {_ADAPTER + name: tensor.contiguous() for name, tensor in state.adapter.items()}
    tensors |= {_SERVER + name: tensor.contiguous() for name, tensor in state.server.items()}
    if known is not None:
        tensors[_SHARDS] = torch.from_numpy(known.shards)
    # One metadata entry: safetensors writes several in an order that changes from run to run.
    metadata = {"state": _digest(header, tensors) + header}
    make_place(folder)
    write_bytes_atomic(checkpoint_path(folder, state.rounds_done), save(tensors, metadata=metadata))
    for old in list_checkpoints(folder)[KEPT:]:
        old.unlink()
    remove_old(carried, state.rounds_done)
    if under_way is not None:
        remove_old(with_fresh(under_way.sent, {}), state.rounds_done)
    return replace(state, carried=carried, in_flight=under_way)


def clients_folder(checkpoints: Path) -> Path:
    """Where clients' states lie, for checkpoints in this folder."""
    return checkpoints.parent / "clients"


def in_flight_folder(checkpoints: Path) -> Path:
    """Where what tasks under way send lies, for checkpoints in this folder."""
    return checkpoints.parent / "in_flight"


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files, newest first."""
    return sorted(filter(Path.is_file, folder.glob("round-*.safetensors")), reverse=True)


def read_checkpoint(path: Path, *, verify_carried: bool = True) -> Checkpoint:
    """Read and verify one file; AirtuneError if it is truncated or altered.

    Without `verify_carried`, the files of what clients carry are not looked at: for a reader that
    does not train. Raises NewerFormatError for a file of a later version.
    """
    from safetensors import safe_open

    try:
        with foreign_code(f"checkpoint {path.name}"), safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except AirtuneError as error:
        raise AirtuneError(f"checkpoint {path.name} cannot be read ({error.__cause__}).") from None
    signed = metadata.get("state", "")
    digest, header = signed[:_DIGEST_LENGTH], signed[_DIGEST_LENGTH:]
    if digest != _digest(header, tensors):
        raise AirtuneError(f"checkpoint {path.name} is damaged (its digest does not match).")
    values = json.loads(header)
    check_format(values.get("format", 1), FORMAT, f"checkpoint {path.name}")
    length = values["records_length"]
    state = ServerState(
        adapter=_under(_ADAPTER, tensors),
        rounds_done=values["rounds_done"],
        clock=Clock(values["time_s"], values["energy_j"]),
        planner=values["planner"],
        carried=_carried(path, values, tensors, verify_carried),
        server=_under(_SERVER, tensors),
        start_loss=values["start_loss"],
        stopped=values["stopped"],
        records=RecordsMark(length, values.get("records_digest", "")),
        in_flight=_in_flight(path, values, verify_carried),
    )
    return Checkpoint(state, length, _fingerprint(values, tensors))


def read_mark(path: Path) -> RecordsMark | None:
    """The mark of the records in a checkpoint's header alone; None where it cannot be had."""
    with suppress(Exception):  # damaged in any way; `read_checkpoint` says how
        values = _header(path)
        return RecordsMark(int(values["records_length"]), str(values.get("records_digest", "")))
    return None


def read_start_loss(folder: Path) -> float | None:
    """The test loss before round 1, from the header of a checkpoint; None where there is none."""
    for path in list_checkpoints(folder):
        with suppress(Exception):
            return float(_header(path)["start_loss"])
    return None


def _header(path: Path) -> dict[str, Any]:
    """The JSON state of a checkpoint alone, without its tensors and unverified."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stream:
        return dict(json.loads((stream.metadata() or {})["state"][_DIGEST_LENGTH:]))


def check_format(found: object, known: int, what: str) -> None:
    """Refuse a file of a later version of airtune, or one whose format is no number."""
    if isinstance(found, int) and not isinstance(found, bool) and 1 <= found <= known:
        return
    raise NewerFormatError(
        f"{what} has format {found!r}, and this airtune reads formats 1 to {known}: use the "
        "airtune that wrote it, or a later one."
    )


def _fingerprint(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Fingerprint | None:
    if values.get("keys") is None:
        return None
    return Fingerprint(values["keys"], values["contents"], tensors[_SHARDS].numpy())


def _carried(
    path: Path, values: Mapping[str, Any], tensors: Mapping[str, Tensor], verify: bool
) -> CarriedStates:
    """What clients carry: in files that the header names; inside the file, in older runs."""
    index = {int(client): Saved(*saved) for client, saved in values.get("carried", {}).items()}
    fresh: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under(_CARRIED, tensors).items():
        owner, _, entry = name.partition("/")
        fresh.setdefault(int(owner), {})[entry] = tensor
    carried = CarriedStates(clients_folder(path.parent), index, fresh)
    wrong = carried.unusable() if verify else {}
    for client, reason in wrong.items():
        raise AirtuneError(
            f"checkpoint {path.name} counts on {carried.path(client)}, which {reason}."
        )
    return carried


def _in_flight(path: Path, values: Mapping[str, Any], verify: bool) -> InFlight | None:
    """Tasks under way, their files looked at."""
    if "in_flight" not in values:
        return None
    found = InFlight.from_json(values["in_flight"], in_flight_folder(path.parent))
    sent = with_fresh(found.sent, {})
    for client, reason in sent.unusable().items() if verify else ():
        raise AirtuneError(f"checkpoint {path.name} counts on {sent.path(client)}, which {reason}.")
    return found


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def newest_checkpoint(
    folder: Path, records_length: int, *, verify_carried: bool = True
) -> tuple[Checkpoint, list[str]]:
    """The newest whole checkpoint whose records are all there, and a sentence per one passed over.

    Raises AirtuneError when none is usable. `verify_carried` as in `read_checkpoint`.
    """
    reasons: list[str] = []
    for path in list_checkpoints(folder):
        try:
            checkpoint = read_checkpoint(path, verify_carried=verify_carried)
        except NewerFormatError:
            raise
        except AirtuneError as error:
            reasons.append(str(error).rstrip("."))
            continue
        if checkpoint.records_length > records_length:
            reasons.append(f"checkpoint {path.name} is ahead of rounds.jsonl, which lost its end")
            continue
        return checkpoint, [f"{reason}; falling back to the one before." for reason in reasons]
    raise AirtuneError(
        f"No checkpoint in {folder} is usable ({'; '.join(reasons) or 'there is none'}): start the "
        "run again in a new folder."
    )
