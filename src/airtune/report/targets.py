"""Costs to several targets as tables of short texts: terminal, page, paper and documents."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from airtune.quantities import format_duration, format_quantity

SHOWN: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("virtual_time_s", "Time", format_duration),
    ("uplink_bytes", "Bytes sent up", lambda value: format_quantity(value, "B")),
    ("energy_j", "Energy of the clients", lambda value: format_quantity(value, "J")),
)
"""Key, title and words of the costs that have a table."""

ABOUT = (
    "In the first row, the mean over its seeds. Below, the ratio to it, seed by seed: the "
    "geometric mean, and in brackets its 95 % interval (Student's t of the logarithms), where an "
    "arm has two seeds or more and got there on all of them."
)


class TargetTable(NamedTuple):
    """One cost, `key`, to each share: a row an arm."""

    key: str
    title: str
    headings: list[str]
    rows: list[list[str]]


def target_tables(comparison: Mapping[str, Any]) -> list[TargetTable]:
    """A table for each of SHOWN; none where the comparison has one target."""
    entries = comparison.get("targets") or []
    return [_table(entries, key, title, words) for key, title, words in SHOWN if entries]


def _table(
    entries: Sequence[Mapping[str, Any]], key: str, title: str, words: Callable[[float], str]
) -> TargetTable:
    names = [arm["arm"] for arm in entries[0]["arms"]]
    return TargetTable(
        key,
        f"{title} to a share of the descent of {names[0]}",
        ["arm", *(f"{100 * entry['share']:g} %" for entry in entries)],
        [
            [name, *(_cell(entry["arms"][k], key, words if k == 0 else None) for entry in entries)]
            for k, name in enumerate(names)
        ],
    )


def _cell(arm: Mapping[str, Any], key: str, words: Callable[[float], str] | None) -> str:
    """What the first arm took, in `words`; of another, its ratio."""
    if not arm["finished"]:
        return "failed"
    ratio = arm["ratio"][key]
    if arm["to_target"] is None:
        return "not reached"
    if words is not None or ratio is None:
        shown = words(arm["to_target"][key]["mean"]) if words is not None else "–"
    else:
        shown = f"×{ratio['mean']:.2f}"
        if ratio["low"] is not None:
            shown += f" [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    partly = arm["reached"] < arm["finished"]
    return f"{shown}, {arm['reached']} of {arm['finished']} seeds" if partly else shown
