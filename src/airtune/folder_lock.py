"""One process a folder. The kernel holds the lock, so it ends with its process, killed or not."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from airtune.errors import AirtuneError, InputError
from airtune.files import make_folder
from airtune.part_folders import LOCK


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder that exists.

    Raises AirtuneError where another process holds it, or where nothing can be written.
    """
    with _taken(folder):
        yield


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Make a new folder, or take an empty one, and hold its lock.

    A second process finds the lock, or what the first has written by then, and changes nothing. A
    folder in which nothing was written by the end is removed again, with those made above it.
    Raises InputError, naming `--out`, for a folder in use.
    """
    _refuse_used(folder)
    above = [parent for parent in folder.parents if not parent.exists()]
    made = not folder.exists()
    make_folder("--out", folder)
    try:
        with _taken(folder):
            try:
                # Looked at once more: another run may have come and gone since.
                _refuse_used(folder)
                yield
            finally:
                if _is_free(folder):
                    (folder / LOCK).unlink(missing_ok=True)
    finally:
        for empty in [folder, *above] if made else []:
            with suppress(OSError):  # it holds something, or is another's
                empty.rmdir()


@contextmanager
def _taken(folder: Path) -> Iterator[None]:
    with _open(folder) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _in_use(folder) from None
        if not _is_current(stream, folder / LOCK):
            # The run that held it was refused, and took its folder away in this very moment.
            raise _in_use(folder)
        yield


def _open(folder: Path) -> IO[str]:
    try:
        return (folder / LOCK).open("w")
    except OSError as error:
        raise AirtuneError(
            f"{folder} cannot be written ({error.strerror}): make it writable, or copy it to a "
            "place that is."
        ) from None


def _is_current(stream: IO[str], path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    return False


def _in_use(folder: Path) -> AirtuneError:
    return AirtuneError(f"{folder} is in use by another airtune process: wait for it, or end it.")


def _is_free(folder: Path) -> bool:
    """Whether it holds nothing but a lock and what a killed process left half-written."""
    return all(
        path.name == LOCK or (path.name.startswith(".") and path.name.endswith(".partial"))
        for path in folder.iterdir()
    )


def _refuse_used(folder: Path) -> None:
    """A run never writes over another one."""
    if folder.exists() and not (folder.is_dir() and _is_free(folder)):
        raise InputError(
            "--out",
            str(folder),
            "a new or empty folder",
            "choose another one, or `airtune resume` the run that is in it",
        )


_LOCKS = Path("/proc/locks")


def is_held(folder: Path) -> bool:
    """Whether a process works in a folder, from the kernel's list of locks; nothing is written.

    Where the system has no such list, the lock is asked for and given back at once.
    """
    try:
        place = str((folder / LOCK).stat().st_ino)
    except OSError:
        return False
    try:
        lines = [line.split() for line in _LOCKS.read_text().splitlines()]
    except OSError:
        return _is_refused(folder / LOCK)
    # `1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END`; `->` waits for the one above it.
    return any(
        word.count(":") == 2 and word.rpartition(":")[2] == place
        for words in lines
        if "->" not in words
        for word in words
    )


def _is_refused(path: Path) -> bool:
    """Whether the kernel refuses to share the lock; a run that begins right now may be refused."""
    with suppress(FileNotFoundError), path.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
