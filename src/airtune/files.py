"""Reading and writing files: YAML 1.2 in, atomic writes out."""

import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from airtune.errors import AirtuneError, InputError, hide

DEEPEST = 64
"""Levels that a YAML file may nest."""
MOST_ALIASED = 100_000
"""Entries that the aliases of a YAML file may add to it."""


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML 1.2, in which `10.0e6`, `1e6` and `1e-05` are numbers.

    Raises InputError with the line of the first mistake, and for nesting or aliases that would make
    the value endless: deeper than `DEEPEST`, or longer through aliases by `MOST_ALIASED` entries.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.composer import MaxDepthExceededError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = DEEPEST
    try:
        with warnings.catch_warnings():
            # An anchor may be given again; in YAML the newest counts.
            warnings.simplefilter("ignore")
            constructor, _ = yaml.get_constructor_parser(text)
            node = constructor.composer.get_single_node()
            _refuse_endless(node, name)
            value = None if node is None else constructor.construct_document(node)
    except MaxDepthExceededError as error:
        raise _too_deep(name, error.problem_mark.line) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "unknown place"
        problem = error.problem or error.context or "it does not parse"
        raise InputError(name, f"not YAML ({problem}, {where})", "valid YAML 1.2") from None
    except (YAMLError, ValueError) as error:
        # ValueError: a date or a number that Python refuses, such as month 13.
        reason = " ".join(str(error).split())
        raise InputError(name, f"not YAML ({reason})", "valid YAML 1.2") from None
    refuse_half_characters(value, name)
    return value


def refuse_half_characters(value: Any, field: str) -> None:
    """InputError where a text, at any depth, has one half of a character, as `"\\ud83d"` names it.

    No file can hold it, and no tokenizer reads it. The bytes of an argument or a variable that are
    not UTF-8 look alike in Python.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            refuse_half_characters(key, field)
            refuse_half_characters(part, field)
    elif isinstance(value, list | tuple):
        for part in value:
            refuse_half_characters(part, field)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"a text with {value[error.start]!a}, one half of a character or no UTF-8"
            raise InputError(field, half, "a text of whole characters") from None


def _too_deep(name: str, line: int) -> InputError:
    where = f"nested more than {DEEPEST} deep in line {line + 1}"
    return InputError(name, where, "a mapping of a few levels", "check its brackets and aliases")


def _refuse_endless(root: Any, name: str) -> None:
    """Refuse aliases that contain themselves, or that multiply a small text into a huge value."""
    sizes: dict[int, tuple[int, int]] = {}
    open_nodes: set[int] = set()

    def measure(node: Any) -> tuple[int, int]:
        """Entries and depth with every alias written out."""
        key = id(node)
        if key in sizes:
            return sizes[key]
        if key in open_nodes:
            raise _too_deep(name, node.start_mark.line)
        open_nodes.add(key)
        inner = (
            []
            if isinstance(node.value, str)
            else [
                part
                for entry in node.value
                for part in (entry if type(entry) is tuple else (entry,))
            ]
        )
        measured = [measure(part) for part in inner]
        entries = 1 + sum(count for count, _ in measured)
        depth = 1 + max((below for _, below in measured), default=0)
        if depth > DEEPEST + 1:
            raise _too_deep(name, node.start_mark.line)
        if entries > len(sizes) + len(open_nodes) + MOST_ALIASED:
            where = f"line {node.start_mark.line + 1}, whose aliases stand for {entries:,} entries"
            raise InputError(f"{name}, {where},", "too large", "written with fewer aliases")
        open_nodes.discard(key)
        sizes[key] = (entries, depth)
        return sizes[key]

    if root is not None:
        measure(root)


def file_value(value: Any) -> Any:
    """A value from Python as a file would hold it, at any depth.

    Paths become text, tuples lists, sets sorted lists (their own order differs from one process to
    the next), and what numpy or torch hold plain numbers or lists of them; anything else passes as
    it is.
    """
    if isinstance(value, Mapping):
        return {file_value(key): file_value(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [file_value(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted((file_value(part) for part in value), key=str)
    if isinstance(value, PurePath):
        return str(value)
    # Duck typing, since neither library is imported for files that need none.
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return value.tolist()
    return value


def read_text(path: Path | str, field: str) -> str:
    """The text of a file. Raises InputError, which names `field` and the reason."""
    try:
        # Some editors and spreadsheets begin a file with a byte order mark.
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(field, str(path), "a file that exists", "check the path") from None
    except IsADirectoryError:
        raise InputError(field, str(path), "a file, not a folder", "name the file in it") from None
    except UnicodeDecodeError as error:
        raise InputError(
            field, f"{path} (byte {error.start} is not UTF-8)", "UTF-8 text", "convert the file"
        ) from None
    except OSError as error:
        raise InputError(field, f"{path} ({error.strerror})", "a readable file") from None


def read_yaml_mapping(path: Path | str, field: str) -> dict[str, Any]:
    """A YAML file whose top level is a mapping."""
    value = parse_yaml(read_text(path, field), str(path))
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(str(path), f"a {type(value).__name__}", "a mapping of keys to values")
    return dict(value)


def make_folder(field: str, folder: Path) -> None:
    """Make a folder and those above it; InputError, naming `field`, where that cannot be."""
    refuse_half_characters(str(folder), field)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            field, f"{folder} ({error.strerror})", "a folder that can be made"
        ) from None


def make_place(folder: Path) -> None:
    """A folder inside a run, with those above it; AirtuneError where something is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AirtuneError(
            f"{folder} cannot be made ({error.strerror}): {_remedy(error)}."
        ) from None


@contextmanager
def filled_whole(field: str, folder: Path, remedy: str = "free some space") -> Iterator[Path]:
    """A place to write into, whose files move to `folder` once everything is there.

    Files of the same names are replaced. Raises AirtuneError (disk full, no permission) and leaves
    `folder` as it was, absent if it was; InputError, naming `field`, where it cannot be made.
    """
    from safetensors import SafetensorError

    existed = folder.exists()
    make_folder(field, folder)
    # Inside, so that moving stays on one disk wherever the user's folder is mounted.
    place = folder / f".{os.getpid()}.partial"
    try:
        place.mkdir(exist_ok=True)
        yield place
        for entry in sorted(place.iterdir()):
            entry.replace(folder / entry.name)
        place.rmdir()
    except BaseException as error:
        shutil.rmtree(place if existed else folder, ignore_errors=True)
        if not isinstance(error, OSError | SafetensorError):
            raise
        raise AirtuneError(f"{folder} cannot be written ({error}): {remedy}.") from error


_VARIABLE = re.compile(r"\$\{(\w+)\}")
Templates: TypeAlias = Mapping[tuple[str | int, ...], tuple[str, str]]
"""Place in nested values -> (the text with `${NAME}`, the text with the variables' values)."""


def with_environment(values: Mapping[str, Any]) -> tuple[dict[str, Any], Templates]:
    """Values of a file with every `${NAME}` in their texts replaced by that environment variable,
    and which texts those were.

    So a shared file need not hold one machine's paths, or a secret. The values are kept out of
    messages from then on (`errors.py`). Raises InputError that names all that are not set.
    """
    templates: dict[tuple[str | int, ...], tuple[str, str]] = {}
    missing: dict[str, tuple[str, str]] = {}

    def filled(value: Any, place: tuple[str | int, ...]) -> Any:
        if isinstance(value, Mapping):
            return {key: filled(part, (*place, key)) for key, part in value.items()}
        if isinstance(value, list):
            return [filled(part, (*place, index)) for index, part in enumerate(value)]
        if not isinstance(value, str) or not _VARIABLE.search(value):
            return value
        for name in _VARIABLE.findall(value):
            if name not in os.environ:
                missing.setdefault(name, (_field(place), value))
            else:
                refuse_half_characters(os.environ[name], f"{_field(place)} (from {name})")
                hide(os.environ[name], f"${{{name}}}")
        text = _VARIABLE.sub(lambda match: os.environ.get(match[1], ""), value)
        templates[place] = (value, text)
        return text

    found = filled(values, ())
    if missing:
        field, value = next(iter(missing.values()))
        raise InputError(
            field,
            value,
            "without variables that are not set",
            f"set {' and '.join(missing)} in the environment",
        )
    hide_filled(templates)
    return found, templates


def _field(place: tuple[str | int, ...]) -> str:
    """A place as a dotted key; an entry of a list goes by the list's."""
    return ".".join(part for part in place if isinstance(part, str))


def take_format(values: dict[str, Any], name: str, known: int) -> int:
    """Take the format out of a file's keys. Raises InputError for one later than is known here."""
    found = values.pop("format", 1)
    if type(found) is int and 1 <= found <= known:
        return found
    raise InputError(
        f"format in {name}",
        found,
        f"a format that this airtune knows, 1 to {known}",
        "use the airtune that wrote the file, or a later one",
    )


def hide_filled(templates: Templates) -> None:
    """Keep filled texts out of messages; once more in a process that was only given them."""
    for template, text in templates.values():
        hide(text, template)


def write_bytes_atomic(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write so that a reader sees the old file or the whole new one, also after a power cut.

    A private file can be read and written by its owner alone, from its first byte on. Raises
    AirtuneError (disk full, no permission) and leaves the old file as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb", opener=_open_private if private else None) as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        # Where the folder is no folder there is nothing to remove either.
        with suppress(OSError):
            temporary.unlink()
        raise AirtuneError(
            f"{path} cannot be written ({error.strerror or error}): {_remedy(error)}; nothing was "
            "left half-written."
        ) from error


def _open_private(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    # The mode above counts only where no such file was there.
    os.fchmod(descriptor, 0o600)
    return descriptor


def _remedy(error: OSError) -> str:
    if error.errno in (errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
        return "move away what is in its place"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "make the folder that it is to stand in first"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space or choose another folder"
    return "choose a place that you may write to"


def require_place(field: str, path: Path) -> None:
    """Refuse a file to be written whose folder is missing, before anything is computed for it."""
    if path.is_dir():
        raise InputError(field, str(path), "a file, not a folder", "add a file name")
    if not path.parent.is_dir():
        raise InputError(field, str(path), "in a folder that exists", f"make {path.parent} first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(field, str(path), "in a folder that you may write to")


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: on POSIX the folder entry is data of its own."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text_atomic(path: Path, text: str) -> None:
    """`write_bytes_atomic` for text."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: Path, value: object) -> None:
    """`write_bytes_atomic` for JSON; NaN and infinity are refused, since JSON has neither."""
    write_text_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
