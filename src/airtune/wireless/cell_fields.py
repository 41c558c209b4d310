"""How the fields of a cell are declared and checked: numbers with limits, words, texts."""

from collections.abc import Sequence
from dataclasses import field
from math import isfinite
from typing import Any

from airtune.errors import InputError
from airtune.quantities import UsualRange


def number(
    default: float | None,
    about: str,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    usual: UsualRange | None = None,
) -> Any:
    """A field that holds a finite number within its limits."""
    limits = {"above": above, "least": least, "most": most, "usual": usual}
    return field(default=default, metadata={"help": about, **limits})


def choice(default: str | None, about: str, choices: tuple[str, ...]) -> Any:
    """A field that holds one of some words."""
    return field(default=default, metadata={"help": about, "choices": choices})


def text(about: str, *, several: bool = False) -> Any:
    """A field that holds a text, or several, and may be empty."""
    return field(default=None, metadata={"help": about, "several": several})


def check(name: str, value: Any, rule: dict[str, Any], default: Any) -> None:
    """Refuse a value of the wrong kind or outside the limits in its field's metadata."""
    if value is None and default is None:
        return
    if choices := rule.get("choices"):
        if value not in choices:
            raise InputError(f"cell.{name}", value, f"one of {', '.join(choices)}")
    elif "above" in rule:
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise InputError(f"cell.{name}", value, "a finite number")
        _check_limits(name, value, rule)
    elif "several" in rule:
        _check_text(name, value, rule["several"])


def _check_limits(name: str, value: float, rule: dict[str, Any]) -> None:
    above, least, most = rule.get("above"), rule.get("least"), rule.get("most")
    if above is not None and value <= above:
        raise InputError(f"cell.{name}", value, f"above {above:g}")
    if least is not None and value < least:
        raise InputError(f"cell.{name}", value, f"at least {least:g}")
    if most is not None and value > most:
        raise InputError(f"cell.{name}", value, f"at most {most:g}")


def _check_text(name: str, value: Any, several: bool) -> None:
    if isinstance(value, str) and value:
        return
    listed = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    if not (several and listed and all(isinstance(each, str) and each for each in value)):
        raise InputError(f"cell.{name}", value, "a string" + (" or a list of strings" * several))
