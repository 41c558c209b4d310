"""Values and tables as plain text: whole in a pipe, in blocks of columns in a narrow terminal.

A value has the unit that its key names, with a prefix that keeps three digits readable. No cell is
ever cut or broken: columns that do not fit beside each other follow below, with the first column
repeated.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

_UNITS = {
    "_s_per_j": "s/J",
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
    # Here, not above: quantities import numpy, and every command imports this module.
    from airtune.quantities import format_duration, format_quantity

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


GAP = "  "


def page_width() -> int | None:
    """Columns of the terminal, or of `COLUMNS`; None in a pipe, where lines have any length."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return shutil.get_terminal_size().columns if known else None


def text_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Sequence[str] = (),
    keys: int = 1,
    width: int | None = None,
) -> str:
    """The table as lines of at most `width` columns, wider only where one cell needs it.

    The first of the columns and those whose heading is in `left` are flush left, numbers right.
    The first `keys` columns are repeated in every block.
    """
    columns = [
        _column(heading, [row[k] for row in rows], k == 0 or heading in left)
        for k, heading in enumerate(headings)
    ]
    first, rest = columns[:keys], columns[keys:]
    blocks: list[list[list[str]]] = [[]]
    for column in rest:
        if blocks[-1] and width is not None and _wide([*first, *blocks[-1], column]) > width:
            blocks.append([])
        blocks[-1].append(column)
    return "\n\n".join(_drawn([*first, *block]) for block in blocks)


def _column(heading: str, cells: Sequence[str], left: bool) -> list[str]:
    """A column's lines, all as long: the heading on as many lines as it needs, then the cells."""
    longest = max([len(cell) for cell in cells] + [len(word) for word in heading.split()] + [1])
    head = wrap(heading, longest) or [""]
    return [line.ljust(longest) if left else line.rjust(longest) for line in (*head, *cells)]


def _wide(columns: Sequence[Sequence[str]]) -> int:
    return sum(len(column[0]) for column in columns) + len(GAP) * (len(columns) - 1)


def _drawn(columns: Sequence[Sequence[str]]) -> str:
    tallest = max(len(column) for column in columns)
    # Headings of fewer lines are at the bottom, next to their cells.
    full = [[" " * len(c[0])] * (tallest - len(c)) + list(c) for c in columns]
    return "\n".join(GAP.join(parts).rstrip() for parts in zip(*full, strict=True))


def facts(pairs: Sequence[tuple[str, str]], width: int | None = None) -> str:
    """Names and values, a pair a line; a long value continues below its beginning."""
    indent = max((len(name) for name, _ in pairs), default=0) + len(GAP)
    lines = []
    for name, value in pairs:
        room = None if width is None else max(20, width - indent)
        parts = [value] if room is None else wrap(value, room, break_long_words=False)
        for index, part in enumerate(parts or [""]):
            lines.append(f"{(name if index == 0 else ''):<{indent}}{part}".rstrip())
    return "\n".join(lines)


def prose(sentence: str, width: int | None = None) -> str:
    """A sentence broken between words at the width of the page."""
    if width is None:
        return sentence
    return "\n".join(wrap(sentence, max(20, width), break_long_words=False)) or sentence
