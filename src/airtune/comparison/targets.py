"""Costs to several shares of the first arm's descent, with intervals of the ratios to it."""

from collections.abc import Callable, Mapping, Sequence
from math import exp, log, sqrt
from typing import Any, NamedTuple

from airtune.comparison.measure import MEASURES, default_target, measure_arms
from airtune.jobs.job import RunResult
from airtune.quantities import format_duration, format_quantity

CONFIDENCE = 0.95

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
    """One cost to each share: a row an arm."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def measure_targets(
    results: Sequence[RunResult], shares: Sequence[float]
) -> list[dict[str, Any]] | None:
    """An entry a share, in rising order; None where no run of the first arm finished."""
    entries = []
    for share in sorted(shares):
        loss = default_target(results, share)
        if loss is None:
            return None
        arms = measure_arms(results, loss)
        told = [_arm(arm, arms[0]) for arm in arms]
        entries.append({"share": share, "target_loss": loss, "arms": told})
    return entries


def _arm(arm: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: arm[key] for key in ("arm", "finished", "reached", "to_target")}
    own, other = _by_seed(arm), _by_seed(first)
    both = [(own[seed], other[seed]) for seed in own if seed in other]
    whole = arm["reached"] == arm["finished"]
    return {**kept, "ratio": {key: _ratio(both, key, whole=whole) for key in MEASURES}}


def _by_seed(arm: Mapping[str, Any]) -> dict[int, Mapping[str, float]]:
    return {run["seed"]: run["to_target"] for run in arm["runs"] if run.get("to_target")}


def _ratio(
    both: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], key: str, *, whole: bool
) -> dict[str, float | None] | None:
    ratios = [own[key] / other[key] for own, other in both if own[key] and other[key]]
    if not ratios:
        return None
    mean, low, high = interval(ratios)
    # An arm that got there on some seeds only has its lucky ones in the mean: no interval of that.
    return {"mean": mean, "low": low if whole else None, "high": high if whole else None}


def interval(ratios: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Geometric mean of positive ratios, and its interval; None for the ends with a single one.

    With x = ln ratio over n seeds: exp(mean(x) ± t sd(x) / sqrt(n)), t the 97.5 % point of
    Student's distribution with n - 1 degrees of freedom.
    """
    from scipy.special import stdtrit

    logs = [log(ratio) for ratio in ratios]
    count, centre = len(logs), sum(logs) / len(logs)
    if count < 2:
        return exp(centre), None, None
    variance = sum((value - centre) ** 2 for value in logs) / (count - 1)
    half = float(stdtrit(count - 1, 0.5 + CONFIDENCE / 2)) * sqrt(variance / count)
    return exp(centre), exp(centre - half), exp(centre + half)


def target_tables(comparison: Mapping[str, Any]) -> list[TargetTable]:
    """A table for each of SHOWN; none where the comparison has one target."""
    entries = comparison.get("targets") or []
    return [_table(entries, key, title, words) for key, title, words in SHOWN if entries]


def _table(
    entries: Sequence[Mapping[str, Any]], key: str, title: str, words: Callable[[float], str]
) -> TargetTable:
    names = [arm["arm"] for arm in entries[0]["arms"]]
    return TargetTable(
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
