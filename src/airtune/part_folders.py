"""Where user-defined parts may come from.

A run folder is data, often from another user: no code is imported because it names it. Parts come
from installed packages, from folders that a user names on the command line (`--parts`, or the
folder of the experiment that is given to `run`), and, for a run that continues or is read, from
the folders that it was found to use when this user ran something from there: they are kept in
`$XDG_STATE_HOME/airtune/part-folders` (`~/.local/state` without that variable), never in the run.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from airtune.errors import InputError

LOCK = ".lock"
"""The file that a process holds while it works in a run folder."""
_NAMED = "_AIRTUNE_PARTS"
"""In the environment, so that worker processes have it, too."""
_recorded: dict[str, Path] = {}
"""Parts of runs -> folders in which the runs found them, where those are not this user's."""


def make_importable(folder: Path) -> None:
    """Let modules of a folder be imported, after everything installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def name_folders(folders: Iterable[Path]) -> None:
    """Folders that the user named for parts; what lies there is meant to be run."""
    for folder in folders:
        if not folder.is_dir():
            raise InputError("--parts", str(folder), "a folder that exists", "check the path")
        os.environ[_NAMED] = os.pathsep.join([*_named(), str(folder.resolve())])
        make_importable(folder.resolve())


def beside_experiment(path: Path | None) -> None:
    """For an experiment to be run: its own folder and the current one, unless a run lies there."""
    for folder in (Path.cwd(), *([path.resolve().parent] if path else [])):
        if not is_run_folder(folder):
            make_importable(folder)


def of_run(run: Path, parts: Iterable[Mapping[str, Any]]) -> None:
    """For a run that continues or is read: the folders that it records, if they are the user's.

    `parts` are the entries of its environment.json. A folder inside the run never counts.
    """
    mine = _remembered()
    for part in parts:
        folder = Path(str(part.get("folder") or ""))
        if not folder.is_absolute():
            continue
        if folder.resolve().is_relative_to(run.resolve()) or str(folder) not in mine:
            _recorded[str(part.get("name"))] = folder
        else:
            make_importable(folder)


def remember(folder: Path) -> None:
    """This user ran a part from there. Where that cannot be kept, `--parts` is needed later."""
    known = _remembered()
    if str(folder) in known:
        return
    with suppress(OSError):
        path = _memory()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(f"{folder}\n")


def refuse_run_folder(field: str, name: str) -> None:
    """Refuse a part whose module lies in a run folder that was not named; nothing is imported."""
    top = name.partition(":")[0].partition(".")[0]
    place = _place(top)
    for folder in () if place is None else (place, *place.parents):
        if str(folder) in _named():
            return
        if is_run_folder(folder):
            raise InputError(
                field,
                f"{name}, a module in {folder},",
                "from an installed package or a folder that you name",
                f"a run folder is data; give --parts {folder} if you trust what lies there",
            )


def where_it_was(name: str) -> str:
    """What to do about a part that cannot be found."""
    folder = _recorded.get(name)
    if folder is None:
        return "name its folder with --parts, or set PYTHONPATH"
    return f"the run found it in {folder}; give --parts {folder} if you trust what lies there"


def root_of(name: str) -> Path | None:
    """The folder from which a part's module was imported; None for what is installed."""
    place = _place(name.partition(":")[0].partition(".")[0])
    if place is None or "site-packages" in place.parts:
        return None
    return place.parent


def is_run_folder(folder: Path) -> bool:
    """Whether a run has its files there."""
    return (folder / "experiment.yaml").is_file() and (
        (folder / "rounds.jsonl").exists()
        or (folder / LOCK).exists()
        or any(folder.glob("checkpoints/round-*.safetensors"))
    )


def _named() -> list[str]:
    return [folder for folder in os.environ.get(_NAMED, "").split(os.pathsep) if folder]


def _place(top: str) -> Path | None:
    """The file of a module, or the folder of a package, without importing it."""
    try:
        spec: ModuleSpec | None = find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin and spec.has_location else None


def _memory() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(state) / "airtune" / "part-folders"


def _remembered() -> set[str]:
    with suppress(OSError, UnicodeDecodeError):
        return set(_memory().read_text(encoding="utf-8").splitlines())
    return set()
