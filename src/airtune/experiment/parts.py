"""Named parts and parts of the user's own, by import path."""

import difflib
import importlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from airtune.errors import InputError


def make_part(
    spec: str | Mapping[str, Any], known: Mapping[str, type], base: type, field: str
) -> Any:
    """Build the part that an experiment names.

    `spec` is a name in `known`, an import path `package.module:Class`, or a mapping with `use`
    (either of them) and the options that the class takes. The class must subclass `base`.
    """
    options = dict(spec) if isinstance(spec, Mapping) else {"use": spec}
    name = options.pop("use", None)
    if not isinstance(name, str):
        raise InputError(field, str(dict(options)), "a name, or a mapping with the key 'use'")
    cls = known[name] if name in known else _import_class(name, known, field)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise InputError(
            field, name, f"a subclass of {base.__module__}.{base.__name__}", "derive your class"
        )
    try:
        return cls(**options)
    except TypeError as error:
        raise InputError(field, str(options), f"options that {name} takes", str(error)) from None


def unknown_name(field: str, name: str, known: Iterable[str]) -> InputError:
    """The error of a name that is not there, with the closest one that is."""
    choices = list(known)
    close = difflib.get_close_matches(name, choices, n=1)
    remedy = f"did you mean {close[0]!r}" if close else "check the spelling"
    return InputError(field, name, f"one of {', '.join(choices)}", remedy)


def _import_class(name: str, known: Mapping[str, object], field: str) -> Any:
    module_name, separator, attribute = name.partition(":")
    if not separator:
        raise unknown_name(field, name, [*known, "an import path module:Class"])
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            field, name, "importable", f"{error}; run where the module is, or set PYTHONPATH"
        ) from None
    if not hasattr(module, attribute):
        raise InputError(field, name, f"a class in {module_name}", "check the class name")
    return getattr(module, attribute)


def make_importable(folder: Path) -> None:
    """Let modules beside an experiment file be imported, after everything installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
