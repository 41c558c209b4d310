"""From a name (a file, a folder, a hub data set, rows in memory) to the rows that are there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airtune.data.cells import Row
from airtune.data.client_files import ClientFiles, client_files
from airtune.data.memory import PREFIX, kept_rows
from airtune.data.rows import FILE_KINDS, HubRows, Rows, file_kind, open_rows
from airtune.errors import InputError

_STEMS = {
    "train": ("train", "trainset", "training"),
    "test": ("test", "testset", "dev", "devset", "validation", "valid", "val"),
}
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")


def source_rows(name: str, field: str, delimiter: str | None = None) -> Iterator[tuple[str, Row]]:
    """Every row of a source as it is, with its place: the training part, then the test part."""
    rows, test = open_source(name, field, delimiter)
    yield from rows
    if test is not None:
        yield from test


def open_source(name: str, field: str, delimiter: str | None = None) -> tuple[Rows, Rows | None]:
    """The rows that a source names, and its own test part if it has one."""
    if name.startswith(PREFIX):
        return kept_rows(name, field), None
    path = Path(name).expanduser()
    if path.is_dir():
        return _open_folder(path, field, delimiter)
    looks_like_file = file_kind(path) is not None or name.startswith((".", "/", "~"))
    if path.exists() or looks_like_file:
        return open_rows(path, field, delimiter), None
    if not _HUB_NAME.fullmatch(name):
        raise InputError(
            field,
            name,
            "`builtin`, a file, a folder or a hub data set `owner/name`",
            "check the path",
        )
    return _open_hub(name, field)


def _open_folder(folder: Path, field: str, delimiter: str | None) -> tuple[Rows, Rows | None]:
    parts = {part: _part_file(folder, part, field) for part in _STEMS}
    test = None if parts["test"] is None else open_rows(parts["test"], field, delimiter)
    clients = client_files(folder, field)
    if clients and parts["train"] is not None:
        raise InputError(
            field,
            f"{folder} (with {parts['train'].name} and {clients[0].name})",
            "a folder with either a training file or a file for each client",
            "move one of them away",
        )
    if clients:
        shards = [open_rows(path, field, delimiter) for path in clients]
        return ClientFiles(str(folder), shards), test
    if parts["train"] is None:
        raise InputError(
            field,
            str(folder),
            "a folder with a train.jsonl, train.csv or the like, or with client-0.jsonl and so on",
            "name a file in it",
        )
    return open_rows(parts["train"], field, delimiter), test


def part_file(name: str, part: str) -> Path | None:
    """The file that a part of a named source is read from; None where it is no file."""
    path = Path(name).expanduser()
    if name.partition(":")[0] == "builtin":
        return None
    if path.is_dir():
        own = _part_file(path, part, f"data.{part}")
        return own or _part_file(path, "train", f"data.{part}")
    return path if path.is_file() else None


def _part_file(folder: Path, part: str, field: str) -> Path | None:
    for stem in _STEMS[part]:
        files = [folder / f"{stem}{kind}" for kind in FILE_KINDS]
        found = [path for path in files if path.is_file()]
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise InputError(
                field, f"{folder} (with {names})", "clear about its files", "name one file"
            )
        if found:
            return found[0]
    return None


def _open_hub(name: str, field: str) -> tuple[Rows, Rows | None]:
    try:
        import datasets
    except ImportError:
        raise InputError(
            field,
            f"{name} (no such file)",
            "a file that exists, or a hub data set",
            "for the hub install its extra: pip install 'airtune[hub]'",
        ) from None
    repository, _, configuration = name.partition(":")
    try:
        splits: Any = datasets.load_dataset(repository, configuration or None)
    except Exception as error:  # dozens of kinds, also of its network stack
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise InputError(
            field,
            f"{name} ({reason})",
            "a hub data set that loads",
            "check the name, and add :configuration if it has several",
        ) from error
    if "train" not in splits:
        raise InputError(field, f"{name} (splits {', '.join(splits)})", "a data set with `train`")
    test = next((split for split in _STEMS["test"] if split in splits), None)
    rows = HubRows(f"{name} train", splits["train"])
    return rows, None if test is None else HubRows(f"{name} {test}", splits[test])
