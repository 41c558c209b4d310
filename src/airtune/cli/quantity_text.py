"""Readable values: the unit that a key names, with a prefix that keeps three digits readable."""

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
        return _show_list(key, value)
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


def _show_list(key: str, values: list[Any]) -> str:
    """Runs of whole numbers as `3-7`; of quantities the range, or the one that all are."""
    if all(isinstance(value, int) for value in values):
        runs: list[list[int]] = []
        for value in values:
            if runs and value == runs[-1][-1] + 1:
                runs[-1].append(value)
            else:
                runs.append([value])
        return " ".join(_show_run(run) for run in runs) or "-"
    texts = [show_value(key, value) for value in (min(values), max(values))]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]}"


def _show_run(run: list[int]) -> str:
    return f"{run[0]}-{run[-1]}" if len(run) > 2 else " ".join(map(str, run))
