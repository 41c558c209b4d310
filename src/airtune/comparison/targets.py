"""Costs to several shares of the first arm's descent, with intervals of the ratios to it."""

from collections.abc import Mapping, Sequence
from math import exp, log, sqrt
from typing import Any

from airtune.comparison.measure import MEASURES, default_target, measure_arms
from airtune.jobs.job import RunResult

CONFIDENCE = 0.95


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
