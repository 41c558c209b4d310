"""A folder with a file for each client: `client-0.jsonl` and so on."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from airtune.data.cells import Row
from airtune.data.rows import Rows, file_kind
from airtune.errors import InputError

_CLIENT_FILE = re.compile(r"client-(\d+)")


def client_files(folder: Path, field: str) -> list[Path]:
    """The files of clients in a folder by client number, `client-0.jsonl` and so on, if any.

    Raises InputError where a number is missing or there twice.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        kind = file_kind(path)
        match = _CLIENT_FILE.fullmatch(path.name.lower().removesuffix(kind or ""))
        if match is None or kind is None or not path.is_file():
            continue
        client = int(match[1])
        if client in found:
            raise InputError(
                field,
                f"{folder} (with {found[client].name} and {path.name})",
                "clear about the file of each client",
                "keep one of them",
            )
        found[client] = path
    missing = next((client for client in range(len(found)) if client not in found), None)
    if missing is not None:
        raise InputError(
            field,
            f"{folder} ({len(found)} files of clients, none of client {missing})",
            "a folder with a file for each client, counted from 0",
            "rename the files",
        )
    return [found[client] for client in range(len(found))]


@dataclass(frozen=True)
class ClientFiles:
    """A folder with a file for each client: their rows one after another."""

    name: str
    parts: Sequence[Rows]

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of the first client's first row."""
        return self.parts[0].columns

    @property
    def keys(self) -> tuple[str, ...]:
        """Those of the first client's first row."""
        return self.parts[0].keys

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        for part in self.parts:
            yield from part
