"""What clients keep from round to round (optimiser moments, residuals): on disk, read when needed.

One file a client and round, `clients/12/round-00007.safetensors`, written before the checkpoint
that counts on it and never changed. A client's newest two files are kept, as the checkpoints are,
so that falling back by one round finds what it needs. A cohort needs memory for itself, however
many clients are registered.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, final

from torch import Tensor

from airtune.errors import AirtuneError
from airtune.files import make_place, write_bytes_atomic

KEPT = 2


class Saved(NamedTuple):
    """The round after which a client's file was written, and the SHA-256 of its bytes."""

    rounds_done: int
    digest: str


@final
@dataclass(frozen=True)
class CarriedStates(Mapping[int, Mapping[str, Tensor]]):
    """Client -> named tensors: `fresh` ones in memory, the others in the files of `index`."""

    folder: Path = Path()
    index: Mapping[int, Saved] = field(default_factory=dict)
    fresh: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)

    def __getitem__(self, client: int) -> Mapping[str, Tensor]:
        if client in self.fresh:
            return self.fresh[client]
        return _read(self.path(client), self.index[client].digest)

    def __iter__(self) -> Iterator[int]:
        return iter(sorted({**self.index, **self.fresh}))

    def __len__(self) -> int:
        return len({**self.index, **self.fresh})

    def __contains__(self, client: object) -> bool:
        return client in self.fresh or client in self.index

    def written(self, folder: Path, rounds_done: int) -> "CarriedStates":
        """The same with nothing in memory."""
        from safetensors.torch import save

        saved: dict[int, Saved] = {}
        for client, tensors in sorted(self.fresh.items()):
            content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
            path = state_path(folder, client, rounds_done)
            make_place(path.parent)
            write_bytes_atomic(path, content)
            saved[client] = Saved(rounds_done, hashlib.sha256(content).hexdigest())
        return CarriedStates(folder, {**self.index, **saved})

    def path(self, client: int) -> Path:
        """The file of a client whose state is on disk."""
        return state_path(self.folder, client, self.index[client].rounds_done)

    def unusable(self) -> dict[int, str]:
        """Clients whose files are missing or damaged, each with a word for it."""
        with ThreadPoolExecutor() as pool:
            # Reading and hashing leave Python's lock, so that threads do it side by side.
            wrong = list(pool.map(self._wrong, self.index))
        return {client: word for client, word in zip(self.index, wrong, strict=True) if word}

    def without(self, clients: Iterable[int]) -> "CarriedStates":
        """The same with nothing of these clients, which then start without it."""
        gone = set(clients)
        kept = {client: saved for client, saved in self.index.items() if client not in gone}
        fresh = {client: tensors for client, tensors in self.fresh.items() if client not in gone}
        return CarriedStates(self.folder, kept, fresh)

    def _wrong(self, client: int) -> str:
        path = self.path(client)
        if not path.is_file():
            return "is missing"
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        return "" if digest == self.index[client].digest else "is damaged"


def with_fresh(
    carried: Mapping[int, Mapping[str, Tensor]], fresh: Mapping[int, Mapping[str, Tensor]]
) -> CarriedStates:
    """What is carried after a round; clients that have nothing new keep what they had."""
    if isinstance(carried, CarriedStates):
        return CarriedStates(carried.folder, carried.index, {**carried.fresh, **fresh})
    return CarriedStates(fresh={**carried, **fresh})


def state_path(folder: Path, client: int, rounds_done: int) -> Path:
    """Where a client's state after some round lies."""
    return folder / str(client) / f"round-{rounds_done:05d}.safetensors"


def remove_old(carried: CarriedStates, rounds_done: int) -> None:
    """Once the checkpoint is on disk: files that neither it nor the one before it counts on."""
    for client, saved in carried.index.items():
        if saved.rounds_done != rounds_done:
            continue
        files = sorted((carried.folder / str(client)).glob("round-*.safetensors"), reverse=True)
        for old in files[KEPT:]:
            old.unlink()


def _read(path: Path, digest: str) -> Mapping[str, Tensor]:
    from safetensors.torch import load

    try:
        content = path.read_bytes()
    except OSError as error:
        raise AirtuneError(f"{path} cannot be read ({error.strerror}).") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise AirtuneError(
            f"{path} is damaged (its digest does not match): run `airtune resume`, which goes back "
            "one round where that helps."
        )
    tensors: dict[str, Tensor] = load(content)
    return tensors
