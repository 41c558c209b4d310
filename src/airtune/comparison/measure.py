"""What a run cost until it reached the target loss, and arms against the first."""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from airtune.jobs.job import RunResult
from airtune.report.costs import COSTS, SERVER_COSTS, spent
from airtune.report.view import Records

ROUNDS = "rounds"
_COSTS = (*COSTS, *SERVER_COSTS)
MEASURES = (ROUNDS, *(cost.key for cost in _COSTS))


def costs_until(records: Records, rounds: int) -> dict[str, float]:
    """Everything spent in the first `rounds` rounds."""
    return {ROUNDS: rounds, **{cost.key: spent(records, cost)[rounds] for cost in _COSTS}}


def reached(records: Records, target_loss: float) -> int | None:
    """Rounds until the test loss was first at or below the target; None if never."""
    for index, record in enumerate(records):
        if record.test_loss <= target_loss:
            return index + 1
    return None


def default_target(results: Sequence[RunResult], share: float = 1.0) -> float | None:
    """A share of the first arm's descent; None where no run of it finished.

    The descent goes from the mean of the losses before training to the lowest loss that every
    finished run of the arm reached.
    """
    first = [result for result in results if result.name == results[0].name]
    lowest, starts = [], []
    for result in first:
        if result.summary is not None:
            lowest.append(min(record.test_loss for record in result.records))
            starts.append(float(result.summary["start_test_loss"]))
    if not lowest:
        return None
    return share * max(lowest) + (1.0 - share) * sum(starts) / len(starts)


def statistics(values: Sequence[float]) -> dict[str, float]:
    """Mean, sample standard deviation (0 for one value), least and greatest."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
    return {"mean": mean, "sd": sqrt(variance), "min": min(values), "max": max(values)}


def measure_run(result: RunResult, target_loss: float) -> dict[str, Any]:
    """The row of one run."""
    base: dict[str, Any] = {"seed": result.seed}
    if result.summary is None:
        return {**base, "failure": result.failure}
    rounds = reached(result.records, target_loss)
    losses = [record.test_loss for record in result.records]
    return {
        **base,
        "start_test_loss": result.summary["start_test_loss"],
        "final_test_loss": losses[-1],
        "best_test_loss": min(losses),
        "total": costs_until(result.records, len(result.records)),
        "to_target": None if rounds is None else costs_until(result.records, rounds),
        "stopped": result.summary["stopped"],
    }


def measure_arms(results: Sequence[RunResult], target_loss: float) -> list[dict[str, Any]]:
    """One entry an arm, in order of first appearance; ratios are to the first arm, by seed."""
    names = list(dict.fromkeys(result.name for result in results))
    runs = {
        name: [measure_run(result, target_loss) for result in results if result.name == name]
        for name in names
    }
    return [_arm(name, runs[name], runs[names[0]]) for name in names]


def _arm(
    name: str, runs: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    finished = [run for run in runs if "failure" not in run]
    there = [run["to_target"] for run in finished if run["to_target"] is not None]
    return {
        "arm": name,
        "finished": len(finished),
        "reached": len(there),
        "final_test_loss": _statistics_of(finished, "final_test_loss"),
        "best_test_loss": _statistics_of(finished, "best_test_loss"),
        "total": {key: statistics([run["total"][key] for run in finished]) for key in MEASURES}
        if finished
        else None,
        "to_target": {key: statistics([costs[key] for costs in there]) for key in MEASURES}
        if there
        else None,
        "ratio": _ratios(runs, first),
        "runs": list(runs),
    }


def _statistics_of(runs: Sequence[Mapping[str, Any]], key: str) -> dict[str, float] | None:
    return statistics([run[key] for run in runs]) if runs else None


def _ratios(
    runs: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]]
) -> dict[str, float | None]:
    """Mean over the seeds that both arms have of this arm's cost over the first's."""
    own = {run["seed"]: run for run in runs if "failure" not in run}
    other = {run["seed"]: run for run in first if "failure" not in run}
    common = [(own[seed], other[seed]) for seed in own if seed in other]
    both = [(a, b) for a, b in common if a["to_target"] and b["to_target"]]
    ratios: dict[str, float | None] = {
        key: _mean(
            [a["to_target"][key] / b["to_target"][key] for a, b in both if b["to_target"][key]]
        )
        for key in MEASURES
    }
    ratios["final_test_loss"] = _mean(
        [a["final_test_loss"] / b["final_test_loss"] for a, b in common]
    )
    ratios["seconds_a_round"] = _mean([_pace(a) / _pace(b) for a, b in common if _pace(b)])
    return ratios


def _pace(run: Mapping[str, Any]) -> float:
    return float(run["total"]["virtual_time_s"] / run["total"][ROUNDS])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
