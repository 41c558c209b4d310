"""What a client keeps on its own disk: its state by round, and its last answers.

Optimiser moments and residuals stay at the client. The server names the round that a client goes on
from, so that a server which falls back by a round finds the client's state of that round. An answer
is kept so that a task which is sent again is answered with the same bytes, without training.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor

from airtune.deploy.wire import Frame, read_frame
from airtune.errors import AirtuneError
from airtune.files import make_place, write_bytes_atomic
from airtune.update.codec import pack, unpack

KEPT_ROUNDS = 3
"""A server falls back by one round at most; one more costs little."""
_DIGEST = "digest"
_LONGEST = 1 << 40


@final
@dataclass(frozen=True)
class ClientStore:
    """Files of one client in one run, by kind and round: `carried-00001` and so on.

    `carried` is the state if the round's update counted, `late` if it came too late.
    """

    folder: Path

    def carried(self, round_index: int, *, late: bool = False) -> dict[str, Tensor]:
        """The state after this client's answer in a round; AirtuneError where it is lost."""
        path = self._path("late" if late else "carried", round_index)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise AirtuneError(
                f"The server goes on from this client's state of round {round_index + 1}, and "
                f"{path} cannot be read ({error.strerror}): restore it, or name the right --state."
            ) from None
        return _verified(content, path)

    def answer(self, round_index: int, task_digest: str) -> Frame | None:
        """The answer to a task, if it is this one that was answered."""
        path = self._path("answer", round_index)
        with suppress(OSError, AirtuneError):
            limits = {"payload": _LONGEST, "frame": _LONGEST}
            kept = read_frame([path.read_bytes()], limits)
            if kept.head.get(_DIGEST) == task_digest:
                return Frame(
                    "answer", dict(kept.head["answer"]), {"payload": kept.parts["payload"]}
                )
        return None

    def keep(
        self,
        round_index: int,
        task_digest: str,
        answer: Frame,
        carried: Mapping[str, Tensor],
        if_late: Mapping[str, Tensor],
    ) -> None:
        """Write state and answer of a round, the state first, and remove those of old rounds."""
        make_place(self.folder)
        for kind, state in (("carried", carried), ("late", if_late)) if carried else ():
            content = pack({name: tensor.contiguous() for name, tensor in state.items()})
            digest = hashlib.sha256(content).digest()
            write_bytes_atomic(self._path(kind, round_index), digest + content)
        kept = Frame("kept", {_DIGEST: task_digest, "answer": dict(answer.head)}, answer.parts)
        write_bytes_atomic(self._path("answer", round_index), kept.encode())
        for kind in ("carried", "late", "answer"):
            for old in sorted(self.folder.glob(f"{kind}-*"), reverse=True)[KEPT_ROUNDS:]:
                old.unlink(missing_ok=True)

    def _path(self, kind: str, round_index: int) -> Path:
        return self.folder / f"{kind}-{round_index + 1:05d}"


def _verified(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a state whose digest holds."""
    digest, body = content[:32], content[32:]
    if hashlib.sha256(body).digest() != digest:
        raise AirtuneError(f"{path} is damaged (its digest does not match): restore it.")
    return unpack(body)
