"""Example problems and experiments that come along with airtune.

They stand in `examples/` and `experiments/` of the repository; a wheel has them inside the package.
"""

from importlib.resources import files
from pathlib import Path

from airtune.errors import AirtuneError
from airtune.suggest import unknown_name

PROBLEMS, EXPERIMENTS = "examples", "experiments"
_SUFFIX = ".yaml"


def shipped_names(kind: str) -> list[str]:
    """The names of the files of a kind, sorted, without their ending."""
    return sorted(path.stem for path in _folder(kind).glob(f"*{_SUFFIX}"))


def shipped_text(kind: str, name: str, field: str) -> str:
    """The text of a file. Raises InputError, naming `field`, for one that is not there."""
    names = shipped_names(kind)
    if name not in names:
        raise unknown_name(field, name, names)
    return (_folder(kind) / f"{name}{_SUFFIX}").read_text(encoding="utf-8")


def _folder(kind: str) -> Path:
    package = Path(str(files("airtune")))
    for folder in (package / "shipped_files" / kind, package.parents[1] / kind):
        if folder.is_dir():
            return folder
    raise AirtuneError(f"This airtune is installed without its {kind}: install its wheel.")
