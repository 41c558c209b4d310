"""Frames on the wire: a JSON head and named parts of bytes, nothing that can execute.

A frame is four bytes with the length of the head, the head, and the parts one after another in the
order in which the head names them. It travels in pieces of at most `CHUNK` bytes. A receiver states
how long each part may be and refuses a longer one before reading it; nothing is unpickled.

    frame = length of head (4 bytes, big-endian) | head (JSON) | part 1 | part 2 | ...
"""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from airtune.errors import AirtuneError

CHUNK = 64 * 1024
"""Bytes of one gRPC message: what a paced sender sends at once."""
LONGEST_HEAD = 1 << 20
"""A head has numbers and options, never rows or tensors [byte]."""
_LENGTH = struct.Struct(">I")
_PARTS, _KIND = "parts", "kind"


class WireError(AirtuneError):
    """A message that is not what the protocol allows; the connection is closed, nothing is kept."""


class Head(BaseModel):
    """A head of one kind: its keys with their types; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


HeadT = TypeVar("HeadT", bound=Head)


@dataclass(frozen=True)
class Frame:
    """A message: `kind` names it, `head` has plain values, `parts` have bytes by name."""

    kind: str
    head: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes on the wire, the head included."""
        return len(replace(self, parts={}).encode()) + sum(map(len, self.parts.values()))

    @classmethod
    def of(cls, kind: str, head: Head, **parts: bytes) -> "Frame":
        """A frame from a checked head."""
        return cls(kind, head.model_dump(mode="json"), parts)

    def read(self, kind: str, model: type[HeadT]) -> HeadT:
        """The checked head of a frame of this kind; WireError for any other."""
        if self.kind != kind:
            raise WireError(f"A message {kind!r} was expected, and {self.kind!r} came.")
        try:
            return model.model_validate(dict(self.head))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "its head"
            raise WireError(
                f"The message {kind!r} is malformed at {place}: {first['msg']}."
            ) from None

    def encode(self) -> bytes:
        """The whole frame."""
        lengths = [[name, len(data)] for name, data in self.parts.items()]
        head = json.dumps(
            {_KIND: self.kind, _PARTS: lengths, "head": self.head}, separators=(",", ":")
        ).encode()
        if len(head) > LONGEST_HEAD:
            raise WireError(
                f"The head of {self.kind!r} has {len(head)} bytes, above {LONGEST_HEAD}."
            )
        return b"".join([_LENGTH.pack(len(head)), head, *self.parts.values()])

    def chunks(self) -> Iterator[bytes]:
        """The frame in pieces."""
        return chunked(self.encode())


def chunked(data: bytes) -> Iterator[bytes]:
    """Bytes in pieces of at most `CHUNK`."""
    view = memoryview(data)
    for start in range(0, len(view), CHUNK):
        yield bytes(view[start : start + CHUNK])


class FrameReader:
    """Frames from pieces, whatever the cuts between them.

    `limits` are the longest parts by name [byte]; a part of another name, or longer, is refused
    before its bytes are held.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = dict(limits)
        self._buffer = bytearray()
        self._head: tuple[str, Mapping[str, Any], list[tuple[str, int]]] | None = None
        self._needed = _LENGTH.size

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """The frames that are complete with this piece."""
        self._buffer += piece
        while len(self._buffer) >= self._needed:
            frame = self._advance()
            if frame is not None:
                yield frame

    @property
    def is_between(self) -> bool:
        """Whether no frame has begun."""
        return not self._buffer and self._head is None

    def _advance(self) -> Frame | None:
        if self._head is not None:
            return self._whole()
        (length,) = _LENGTH.unpack_from(self._buffer)
        if not 2 <= length <= LONGEST_HEAD:
            raise WireError(f"A message names a head of {length} bytes, above {LONGEST_HEAD}.")
        if len(self._buffer) < _LENGTH.size + length:
            self._needed = _LENGTH.size + length
            return None
        text = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
        del self._buffer[: _LENGTH.size + length]
        self._head = _parse_head(text, self._limits)
        self._needed = sum(size for _, size in self._head[2])
        return None

    def _whole(self) -> Frame:
        assert self._head is not None
        kind, head, lengths = self._head
        parts, at = {}, 0
        for name, length in lengths:
            parts[name] = bytes(self._buffer[at : at + length])
            at += length
        del self._buffer[:at]
        self._head, self._needed = None, _LENGTH.size
        return Frame(kind, head, parts)


def _parse_head(
    text: bytes, limits: Mapping[str, int]
) -> tuple[str, Mapping[str, Any], list[tuple[str, int]]]:
    try:
        whole = json.loads(text)
        kind, head = whole[_KIND], whole["head"]
        lengths = [(name, length) for name, length in whole[_PARTS]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise WireError("A message has a head that is not of this protocol.") from None
    if not isinstance(kind, str) or not isinstance(head, dict) or len(kind) > 40:
        raise WireError("A message has a head that is not of this protocol.")
    seen: set[str] = set()
    for name, length in lengths:
        if not isinstance(name, str) or name not in limits or name in seen:
            raise WireError(f"The message {kind!r} has a part {str(name)[:40]!r}, not known here.")
        if type(length) is not int or not 0 <= length <= limits[name]:
            raise WireError(
                f"The part {name!r} of the message {kind!r} has {str(length)[:20]} bytes; "
                f"at most {limits[name]} are allowed."
            )
        seen.add(name)
    return kind, head, lengths


def read_frame(pieces: Iterable[bytes], limits: Mapping[str, int]) -> Frame:
    """The one frame of a stream; WireError where it is cut short or more follows."""
    reader = FrameReader(limits)
    found: list[Frame] = []
    for piece in pieces:
        found += reader.feed(piece)
        if len(found) > 1:
            break
    if len(found) != 1 or not reader.is_between:
        raise WireError("A message was cut short, or more came after it.")
    return found[0]
