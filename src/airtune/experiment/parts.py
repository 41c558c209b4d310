"""Named parts, and user-defined parts by import path."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import Any

from airtune.config.experiment import check
from airtune.errors import InputError, foreign_code
from airtune.experiment.part_folders import refuse_run_folder, where_it_was
from airtune.methods.bench import Bench
from airtune.methods.spec import PartSpec
from airtune.suggest import suggest

_MEND = "mend it, or leave it out"

Spec = str | Mapping[str, Any]
"""A name, an import path `package.module:Class`, or a mapping of `use` and the part's options."""


def make_part(
    spec: Spec, known: Mapping[str, PartSpec], bases: tuple[type, ...], field: str, bench: Bench
) -> Any:
    """Build the part that an experiment names, a shipped one on the bench."""
    name, options = check_part(spec, known, bases, field)
    if name in known:
        return known[name].make(bench, options)
    cls = _import_class(name, known, field)
    with foreign_code(f"{field} {name}, while it was made with {_shown(options)},", _MEND):
        return cls(**options)


def check_part(
    spec: Spec, known: Mapping[str, PartSpec], bases: tuple[type, ...], field: str
) -> tuple[str, Any]:
    """The name and the checked options of a part; a user-defined class must subclass a base."""
    options = dict(spec) if isinstance(spec, Mapping) else {"use": spec}
    name = options.pop("use", None)
    if not isinstance(name, str):
        raise InputError(field, str(dict(options)), "a name, or a mapping with the key 'use'")
    if name in known:
        return name, check(known[name].options, options, field)
    cls = _import_class(name, known, field)
    if not (isinstance(cls, type) and issubclass(cls, bases)):
        allowed = " or ".join(f"{base.__module__}.{base.__name__}" for base in bases)
        raise InputError(field, name, f"a subclass of {allowed}", "derive your class")
    _check_options(cls, options, name, field)
    return name, options


def _check_options(
    cls: Callable[..., Any], options: Mapping[str, Any], name: str, field: str
) -> None:
    """Refuse options that the class does not take, or lacks, before it is made."""
    try:
        taken = signature(cls)
    except ValueError:
        return  # a class in C that does not say
    try:
        taken.bind(**options)
    except TypeError as error:
        names = ", ".join(taken.parameters) or "none"
        raise InputError(
            field,
            f"{name} with {_shown(options)}",
            f"given options that it takes ({names})",
            str(error),
        ) from None


def _shown(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"


def unknown_name(field: str, name: str, known: Iterable[str]) -> InputError:
    """The error of a name that is not there, with the closest one that is."""
    choices = list(known)
    remedy = suggest(name, choices, "check the spelling")
    return InputError(field, name, f"one of {', '.join(choices)}", remedy)


def _import_class(name: str, known: Mapping[str, object], field: str) -> Any:
    module_name, separator, attribute = name.partition(":")
    if not separator:
        raise unknown_name(field, name, [*known, "an import path module:Class"])
    if not module_name or not attribute or module_name.startswith("."):
        raise InputError(field, name, "of the form package.module:Class")
    refuse_run_folder(field, name)
    with foreign_code(f"{field} {name}, while its module was imported,", _MEND):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # The module itself, or a package of its path; one that it imports is its own fault.
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            raise InputError(field, name, "importable", f"{error}; {where_it_was(name)}") from None
        if not hasattr(module, attribute):
            raise InputError(field, name, f"a class in {module_name}", "check the class name")
        return getattr(module, attribute)
