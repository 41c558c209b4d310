"""Parts of a user's own, by import path: found, checked and made, with one sentence for a mistake.

What is imported runs the user's code, so it stands within `foreign_code`, and a module that lies
in a run folder is refused first (`part_folders`).
"""

import importlib
from collections.abc import Callable, Collection, Mapping
from inspect import signature
from typing import Any

from airtune.errors import InputError, foreign_code
from airtune.part_folders import refuse_run_folder, where_it_was
from airtune.suggest import unknown_name

_MEND = "mend it, or leave it out"

Spec = str | Mapping[str, Any]
"""A name, an import path `package.module:Class`, or a mapping of `use` and the part's options."""


def name_and_options(spec: Spec, field: str) -> tuple[str, dict[str, Any]]:
    """What a key names, and the options beside it."""
    options = dict(spec) if isinstance(spec, Mapping) else {"use": spec}
    name = options.pop("use", None)
    if not isinstance(name, str):
        raise InputError(field, str(dict(options)), "a name, or a mapping with the key 'use'")
    return name, options


def made_part(
    name: str, options: Mapping[str, Any], field: str, known: Collection[str] = ()
) -> Any:
    """An instance of a user-defined class with these options; check it first."""
    cls = import_class(name, known, field)
    with foreign_code(f"{field} {name}, while it was made with {_shown(options)},", _MEND):
        return cls(**options)


def check_class(
    name: str,
    options: Mapping[str, Any],
    bases: tuple[type, ...],
    field: str,
    known: Collection[str] = (),
) -> None:
    """Refuse a user-defined class that subclasses no base, or does not take the options."""
    cls = import_class(name, known, field)
    if not (isinstance(cls, type) and issubclass(cls, bases)):
        allowed = " or ".join(f"{base.__module__}.{base.__name__}" for base in bases)
        raise InputError(field, name, f"a subclass of {allowed}", "derive your class")
    _check_options(cls, options, name, field)


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


def import_class(name: str, known: Collection[str], field: str) -> Any:
    """The class at an import path; `known` are the names of shipped parts, for the message."""
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
