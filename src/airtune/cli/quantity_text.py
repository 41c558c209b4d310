"""Values for people: the unit that a key names, with a prefix that keeps three digits readable."""

from typing import Any

from airtune.quantities import format_duration, format_quantity

_UNITS = {
    "_w_per_hz": "W/Hz",
    "_bps_hz": "bit/s/Hz",
    "_bps": "bit/s",
    "_hz": "Hz",
    "_bits": "bit",
    "_j": "J",
    "_w": "W",
    "_s": "s",
}


def split_unit(key: str) -> tuple[str, str]:
    """A key as words and its unit.

    >>> split_unit("lower_bound_s"), split_unit("pruning_rate")
    (('lower bound', 's'), ('pruning rate', ''))
    """
    for suffix, unit in _UNITS.items():
        if key.endswith(suffix):
            return key.removesuffix(suffix).replace("_", " "), unit
    return key.replace("_", " "), ""


def show_value(key: str, value: Any) -> str:
    """A value as text: durations, SI prefixes, gaps as powers of ten; an absent one as a dash."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return " ".join(show_value(key, entry) for entry in value) or "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    unit = split_unit(key)[1]
    if unit == "s":
        return format_duration(value) if value >= 1e-2 else format_quantity(value, "s")
    if unit:
        return format_quantity(value, unit)
    if key.endswith("gap"):
        return f"{value:.2e}" if abs(value) < 1e-3 else f"{value:.2%}"
    return f"{value:.4g}"
