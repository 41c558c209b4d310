"""Paths over rounds: constraints with their limits, queues, and what else a method measured."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from airtune.federated.records.fields import DIMENSIONLESS
from airtune.federated.records.record import RoundRecord
from airtune.quantities import FloatArray
from airtune.report.alike import flat, stated, thinned
from airtune.report.labels import quantity
from airtune.report.style import INK, Panel, count_rounds, figure, line
from airtune.report.view import Records, RunView, entries, numbers

TARGET = "latency_target_s"
"""A limit of the experiment, or derived before round 1 and then under a record's `plan`."""
TERM = "pruning_term"
"""Under a record's `measured`: the mean pruning rate, weighted by the clients' examples."""
LOG_FROM = 100.0
"""Curves whose values span more than this factor share a logarithmic axis."""
MOST_CURVES = 7
"""Numbers of one field that still make a readable figure."""


def extra_paths(records: Records) -> dict[str, dict[int, float]]:
    """Numbers of the rounds that no other panel shows, as key -> round -> value."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        extras = {**(record.plan or {}), **record.others, **(record.measured or {})}
        for key, value in numbers(extras, most=MOST_CURVES).items():
            if key != TARGET:
                found.setdefault(key, {})[record.round] = value
    return found


def extra_panels(view: RunView) -> list[Panel | str]:
    """A panel for each figure of numbers that belong together, and for each number without one.

    Numbers that never change are stated in a sentence.
    """
    paths = extra_paths(view.records)
    figures: dict[str, dict[str, dict[int, float]]] = {}
    # Sorting is stable: what has no place of its own stays in the order of the record.
    for key in sorted(paths, key=lambda key: quantity(key).order):
        if title := quantity(key).figure:
            figures.setdefault(title, {})[key] = paths[key]
    made = [_group(view, title, several) for title, several in figures.items()]
    rest: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for key, path in paths.items():
        if not quantity(key).figure:
            rest.setdefault((key.partition(".")[0], quantity(key).unit), {})[key] = path
    for (first, _), several in rest.items():
        what = quantity(first if len(several) > 1 else next(iter(several)))
        made.append(_group(view, f"{what.title} over rounds", several))
    return made


def extra_of_arms(arms: Sequence[tuple[str, Sequence[Records]]]) -> list[Panel | str]:
    """The same numbers as means over the seeds of each arm that records them."""
    panels: list[Panel | str] = []
    tables = [
        (name, index, [extra_paths(records) for records in runs])
        for index, (name, runs) in enumerate(arms)
    ]
    keys = dict.fromkeys(key for _, _, runs in tables for run in runs for key in run)
    for key in (key for key in keys if quantity(key).comparable):
        what = quantity(key)
        made = figure("round", what.axis)
        paths = [
            (name, index, path)
            for name, index, runs in tables
            if (path := _mean_path([run[key] for run in runs if key in run]))
        ]
        if len(paths) == 1 and flat(paths[0][2].values()):
            panels.append(f"{paths[0][0]}: {_steady(key, paths[0][2])}")
            continue
        rounds = [number for _, _, path in paths for number in path]
        for name, index, path in paths:
            x, y = thinned(list(path), [value * what.shown.scale for value in path.values()])
            made.add_scatter(
                x=x,
                y=y,
                name=name,
                mode="lines",
                line=line(index),
            )
        made.update_layout(showlegend=True)
        count_rounds(made, rounds)
        title = f"{what.title} over rounds"
        panels.append(Panel(title, "Mean over the seeds.", made))
    return panels


def _mean_path(paths: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Mean of each round over the runs that have it."""
    rounds = sorted({number for path in paths for number in path})
    return {
        number: sum(values) / len(values)
        for number in rounds
        if (values := [path[number] for path in paths if number in path])
    }


def _group(view: RunView, title: str, paths: Mapping[str, Mapping[int, float]]) -> Panel | str:
    if all(flat(path.values()) for path in paths.values()):
        return " ".join(_steady(key, path) for key, path in paths.items())
    shown = {key: quantity(key) for key in paths}
    one = next(iter(shown.values()))
    several = "value" if one.unit == DIMENSIONLESS else f"value [{one.shown.unit}]"
    made = figure("round", one.axis if len(paths) == 1 else several)
    for index, (key, path) in enumerate(paths.items()):
        x, y = thinned(list(path), [value * shown[key].shown.scale for value in path.values()])
        made.add_scatter(
            x=x,
            y=y,
            name=shown[key].label,
            mode="lines+markers" if len(x) <= 60 else "lines",
            line=line(index),
            marker={"size": 4},
        )
    made.update_layout(showlegend=len(paths) > 1)
    values = [value for path in paths.values() for value in path.values()]
    if min(values) > 0 and max(values) > LOG_FROM * min(values):
        made.update_yaxes(type="log")
    count_rounds(made, view.rounds)
    return Panel(title, "", made)


def _steady(key: str, path: Mapping[int, float]) -> str:
    """A number that hardly varies over the rounds that have it."""
    what = quantity(key)
    value = stated([value * what.shown.scale for value in path.values()])
    unit = "" if what.unit == DIMENSIONLESS else f" {what.shown.unit}"
    rounds = "in every round" if len(path) > 1 else f"in round {next(iter(path))}"
    return f"{what.title}: {value}{unit} {rounds}."


def constraint_panels(view: RunView) -> list[Panel | str]:
    """Constraints that bind over the whole run, as the path of what they limit."""
    panels: list[Panel | str] = []
    # A target that was derived before round 1 is in the records, not in the experiment.
    plans = [record.plan or {} for record in view.records]
    derived = [plan[TARGET] for plan in plans if TARGET in plan]
    target_s = derived[0] if derived else view.limits.get(TARGET)
    if target_s is not None:
        panels.append(_mean_latency(view, target_s))
    if "pruning_budget" in view.limits and any(_pruned(view.records)):
        panels += [_mean_pruning(view, view.limits["pruning_budget"])]
    return panels


def _mean_latency(view: RunView, target_s: float) -> Panel:
    latency = [record.latency_s for record in view.records]
    means = [total / (k + 1) for k, total in enumerate(accumulate(latency))]
    made = figure("round", "latency [s]")
    x, shown = thinned(view.rounds, latency)
    made.add_scatter(
        x=x,
        y=shown,
        name="of the round",
        mode="markers",
        marker={"color": line(0)["color"], "size": 5},
    )
    shown = thinned(view.rounds, means)[1]
    made.add_scatter(x=x, y=shown, name="mean so far", mode="lines", line=line(1))
    _limit(made, target_s, f"long-term target {target_s:.4g} s")
    made.update_yaxes(rangemode="tozero")
    count_rounds(made, view.rounds)
    return Panel(
        "Long-term latency constraint",
        f"The mean latency is {means[-1]:.4g} s after {len(means)} rounds, "
        f"{means[-1] / target_s - 1:+.1%} from the target.",
        made,
    )


def _pruned(records: Records) -> list[float]:
    """Every recorded pruning rate."""
    return [entry.pruning_rate or 0.0 for _, entry in entries(records)]


def _pruning(view: RunView) -> dict[int, float]:
    """Mean pruning rate of every round with clients, weighted as in the budget.

    By the clients' weights, or, where those are unknown, as the method recorded it.
    """
    if view.weights is None:
        recorded = {record.round: (record.measured or {}).get(TERM) for record in view.records}
        return {number: value for number, value in recorded.items() if value is not None}
    return {
        record.round: _weighted(record, view.weights) for record in view.records if record.clients
    }


def _weighted(record: RoundRecord, weights: FloatArray) -> float:
    own = [float(weights[entry.client]) for entry in record.clients]
    rates = [entry.pruning_rate or 0.0 for entry in record.clients]
    return sum(w * r for w, r in zip(own, rates, strict=True)) / sum(own)


def _mean_pruning(view: RunView, budget: float) -> Panel | str:
    path = _pruning(view)
    if not path:
        return (
            "The mean pruning rate is not drawn against its budget: it is weighted by the clients' "
            "examples, which are not in this folder."
        )
    if flat(path.values()):
        rate = stated([*path.values()])
        return (
            f"The mean pruning rate, weighted by the clients' examples, was {rate} in every round; "
            f"the budget is {budget:g}."
        )
    made = figure("round", "mean pruning rate [share removed]")
    x, y = thinned(list(path), list(path.values()))
    made.add_scatter(x=x, y=y, name="weighted mean", mode="lines+markers", line=line(0))
    _limit(made, budget, f"budget {budget:g}")
    made.update_yaxes(range=[0, 1.15 * max(budget, *y)])
    count_rounds(made, view.rounds)
    return Panel(
        "Pruning budget",
        "Mean over the clients, weighted by their examples. Rates are rounded down to whole "
        "attention units and neurons, so the mean stays below the budget.",
        made,
    )


def _limit(made: Any, value: float, words: str) -> None:
    made.add_hline(
        y=value,
        line={"color": INK, "dash": "dash", "width": 1},
        annotation_text=words,
        annotation_position="top left",
    )
