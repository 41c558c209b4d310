"""One "did you mean": the known name that is most like a mistyped one."""

from collections.abc import Iterable
from difflib import get_close_matches

from airtune.errors import InputError

LIKENESS = 0.6
"""Least share of characters, in order, that a name and its suggestion have in common."""


def closest(word: object, known: Iterable[str], likeness: float = LIKENESS) -> str | None:
    """The known name that is most like `word`; None where none is like it.

    Upper and lower case are the same, and so are hyphens and underscores.

    >>> closest("Band-width", ["bandwidth_hz", "carrier_hz"])
    'bandwidth_hz'
    """
    names: dict[str, str] = {}
    for name in known:
        names.setdefault(_form(name), name)
    found = get_close_matches(_form(str(word)), names, n=1, cutoff=likeness)
    return names[found[0]] if found else None


def suggest(word: object, known: Iterable[str], otherwise: str = "") -> str:
    """The remedy for a name that is not known; `otherwise` where no known one is like it.

    >>> suggest("band_hz", ["seed", "bandwidth_hz"])
    "did you mean 'bandwidth_hz'?"
    """
    name = closest(word, known)
    return otherwise if name is None else f"did you mean {name!r}?"


def unknown_name(field: str, name: str, known: Iterable[str]) -> InputError:
    """The error of a name that is not there, with the closest one that is."""
    choices = list(known)
    remedy = suggest(name, choices, "check the spelling")
    return InputError(field, name, f"one of {', '.join(choices)}", remedy)


def _form(name: str) -> str:
    return name.lower().replace("-", "_")
