"""A socket of this machine that takes frames and gives answers, for its owner alone.

One connection is one question: a frame of kind `handover` with the client's number and the frame
proper as a part, until the other side stops sending; then the answer, until this side closes.
"""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airtune.deploy.hub import Say
from airtune.deploy.messages import Count
from airtune.deploy.wire import Frame, FrameReader, Head, WireError
from airtune.errors import AirtuneError, InputError

HANDOVER, FRAME = "handover", "frame"
LONGEST = 1 << 32
LONGEST_PATH = 100
"""Of a socket's path; Linux allows 107 bytes, others fewer."""
READ_S = 60.0
"""A process of this machine that sends nothing for so long is not waited for."""


class Handover(Head):
    """The number of the client that is asked, as its SuperNode states it."""

    client: Count


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket at `path`, mode 0600, in a folder of mode 0700 that is made if it is missing.

    Raises InputError for a folder that others may enter, or a path that is in use.
    """
    _check_folder(path)
    _check_free(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        except OSError as error:
            raise AirtuneError(f"{path} cannot be made ({error.strerror}).") from None
        finally:
            os.umask(before)
        listener.listen(8)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)
    finally:
        listener.close()


def _check_folder(path: Path) -> None:
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise InputError(
            "--socket", str(path), f"a path of at most {LONGEST_PATH} bytes", "use /run or /tmp"
        )
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise InputError(
            "--socket", f"{path} ({error.strerror})", "in a folder that can be made"
        ) from None
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise InputError(
            "--socket",
            str(path),
            "in a folder of your own that other users cannot enter",
            f"chmod 700 {folder}, or name a new folder",
        )


def _check_free(path: Path) -> None:
    """Remove the socket of a trainer that was killed; refuse anything else in its place."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return
    if not is_socket:
        raise InputError("--socket", str(path), "a path where nothing is", "choose another one")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(READ_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass
    raise InputError("--socket", str(path), "one that no other trainer uses", "end that trainer")


def answer_one(listener: socket.socket, answer: Callable[[int, bytes], bytes], say: Say) -> None:
    """Take one connection and answer its frame; what is wrong with it is said."""
    line, _ = listener.accept()
    with line:
        line.settimeout(READ_S)
        try:
            client, frame = _read(line)
            line.sendall(answer(client, frame))
        except WireError as error:
            say(f"Refused what came through the socket: {error}")
        except OSError as error:
            # The answer is kept, and given when the task is sent again.
            say(f"Who asked through the socket is gone ({error.strerror or error}).")


def _read(line: Any) -> tuple[int, bytes]:
    reader = FrameReader({FRAME: LONGEST})
    found: list[Frame] = []
    while piece := line.recv(1 << 16):
        found += reader.feed(piece)
    if len(found) != 1 or not reader.is_between or FRAME not in found[0].parts:
        raise WireError("A message was cut short, or more came after it.")
    return found[0].read(HANDOVER, Handover).client, found[0].parts[FRAME]
