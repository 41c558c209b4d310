"""What a deployment needs of a system that carries its frames as messages."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from airtune.deploy.wire import Frame


class Fault(Enum):
    """Why a message has no reply."""

    EXPIRED = "its time ran out"
    GONE = "its node is gone"
    FAILED = "its app failed"


@dataclass(frozen=True)
class Reply:
    """What came back for a message: who answers and the bytes of a frame, or why there is none.

    `problem` is a sentence's end: why the node's app has no frame.
    """

    message: str
    client: int = -1
    frame: bytes = b""
    problem: str = ""
    fault: Fault | None = None


class Carrier(Protocol):
    """Carries frames to nodes, and one reply to each back. Nothing is delivered a second time."""

    def nodes(self) -> Collection[int]:
        """The nodes that are here now."""
        ...

    def send(self, node: int, frame: Frame, ttl_s: float) -> str | None:
        """Send a frame; the message's name, or None where the node does not take it.

        Message and reply are void after `ttl_s`.
        """
        ...

    def replies(self, messages: Collection[str]) -> Iterable[Reply]:
        """The replies to these messages that have come, each once."""
        ...
