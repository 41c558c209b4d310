"""Messages in order and exactly once between two processes, also when their connection breaks.

Each side keeps what it has sent in this round. When a connection opens again, each states how many
messages it has received, and the other goes on from there. A client that was killed has received
none: it makes the same messages again, of which the server takes the first copy only, and it gets
every answer from the start. Nothing is drawn or trained twice on the server.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import final

from airtune.deploy.wire import Frame, WireError

AHEAD = 4
"""Messages that a peer may be ahead; the protocol alternates, so that more is a fault."""


@final
class Pipe:
    """One side of a conversation. Thread-safe.

    With `stamps` a message's head states when it was sent, `at_s`, and such a message when it
    arrived, `arrived_s` [s, this machine's monotonic clock].
    """

    def __init__(self, *, stamps: bool = False) -> None:
        self._stamps = stamps
        self._changed = threading.Condition()
        self._sent: list[Frame] = []
        self._inbox: list[Frame] = []
        self._received = 0
        self._connection = 0
        self.closed = ""

    def send(self, frame: Frame) -> None:
        """Queue a message."""
        if self._stamps:
            frame = _stamped(frame, "at_s")
        with self._changed:
            self._sent.append(frame)
            self._changed.notify_all()

    def receive(self, kind: str, wait_s: float) -> Frame:
        """The next message, which must be of this kind.

        TimeoutError after `wait_s` without one; WireError where the pipe is closed, or for a
        message of another kind.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._inbox or self.closed, wait_s)
            if self._inbox:
                frame = self._inbox.pop(0)
                if frame.kind != kind:
                    raise WireError(f"A message {kind!r} was expected, and {frame.kind!r} came.")
                return frame
            if self.closed:
                raise WireError(self.closed)
            raise TimeoutError(f"no message {kind!r} came within {wait_s:g} s")

    def close(self, reason: str) -> None:
        """End the conversation; a reader that waits gets the reason."""
        with self._changed:
            self.closed = self.closed or reason
            self._changed.notify_all()

    @property
    def received(self) -> int:
        """Messages received so far."""
        with self._changed:
            return self._received

    def connect(self) -> int:
        """A new connection, whose number the other calls take; an older one ends."""
        with self._changed:
            self._connection += 1
            self._changed.notify_all()
            return self._connection

    def deliver(self, number: int, frame: Frame) -> None:
        """Message `number` (from 0) has arrived; one that had arrived before is dropped."""
        with self._changed:
            if number < self._received:
                return
            if number > self._received:
                raise WireError(f"Message {number} came where {self._received} was due.")
            if len(self._inbox) >= AHEAD:
                raise WireError("More messages came than the protocol allows.")
            self._inbox.append(_stamped(frame, "arrived_s") if self._stamps else frame)
            self._received += 1
            self._changed.notify_all()

    def outgoing(
        self, connection: int, start: int, idle_s: float = 1.0
    ) -> Iterator[tuple[int, Frame] | None]:
        """The messages from `start` on as they come; None when none came for `idle_s`.

        Ends with the conversation, once all is sent, or when a newer connection takes over. A
        process that starts again may be behind `start`: what the other side has is not sent again.
        """
        number = start
        while True:
            with self._changed:
                self._changed.wait_for(partial(self._moves, connection, number), idle_s)
                if self._connection != connection:
                    return
                frame = self._sent[number] if number < len(self._sent) else None
                if frame is None and self.closed:
                    return
            if frame is None:
                yield None
                continue
            yield number, frame
            number += 1

    def _moves(self, connection: int, number: int) -> bool:
        """Whether a sender has something to do; call it under the lock."""
        return number < len(self._sent) or bool(self.closed) or self._connection != connection


def _stamped(frame: Frame, name: str) -> Frame:
    return replace(frame, head={**frame.head, name: time.monotonic()})
