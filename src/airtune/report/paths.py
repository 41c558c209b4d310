"""Paths over rounds: constraints with their limits, queues, and what else a method measured."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from airtune.federated.records.fields import DIMENSIONLESS
from airtune.report.labels import quantity
from airtune.report.style import INK, Panel, count_rounds, figure, line
from airtune.report.view import Records, RunView, numbers

TARGET = "latency_target_s"
"""A limit of the experiment, or derived before round 1 and then under a record's `plan`."""
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


def extra_panels(view: RunView) -> list[Panel]:
    """A panel for each figure of numbers that belong together, and for each number without one."""
    paths = extra_paths(view.records)
    figures: dict[str, dict[str, dict[int, float]]] = {}
    # Sorting is stable: what has no place of its own stays in the order of the record.
    for key in sorted(paths, key=lambda key: quantity(key).order):
        if title := quantity(key).figure:
            figures.setdefault(title, {})[key] = paths[key]
    panels = [_group(view, title, several) for title, several in figures.items()]
    rest: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for key, path in paths.items():
        if not quantity(key).figure:
            rest.setdefault((key.partition(".")[0], quantity(key).unit), {})[key] = path
    for (first, _), several in rest.items():
        what = quantity(first if len(several) > 1 else next(iter(several)))
        panels.append(_group(view, f"{what.title} over rounds", several))
    return panels


def extra_of_arms(arms: Sequence[tuple[str, Sequence[Records]]]) -> list[Panel]:
    """The same numbers as means over the seeds of each arm that records them."""
    panels = []
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
        if len(paths) == 1 and len(set(paths[0][2].values())) == 1:
            continue  # one arm's one number: nothing to compare
        rounds = [number for _, _, path in paths for number in path]
        for name, index, path in paths:
            made.add_scatter(
                x=list(path),
                y=[value * what.shown.scale for value in path.values()],
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


def _group(view: RunView, title: str, paths: Mapping[str, Mapping[int, float]]) -> Panel:
    shown = {key: quantity(key) for key in paths}
    one = next(iter(shown.values()))
    several = "value" if one.unit == DIMENSIONLESS else f"value [{one.shown.unit}]"
    made = figure("round", one.axis if len(paths) == 1 else several)
    for index, (key, path) in enumerate(paths.items()):
        made.add_scatter(
            x=list(path),
            y=[value * shown[key].shown.scale for value in path.values()],
            name=shown[key].label,
            mode="lines+markers",
            line=line(index),
            marker={"size": 4},
        )
    made.update_layout(showlegend=len(paths) > 1)
    values = [value for path in paths.values() for value in path.values()]
    if min(values) > 0 and max(values) > LOG_FROM * min(values):
        made.update_yaxes(type="log")
    count_rounds(made, view.rounds)
    return Panel(title, "", made)


def constraint_panels(view: RunView) -> list[Panel]:
    """Constraints that bind over the whole run, as the path of what they limit."""
    panels = []
    # A target that was derived before round 1 is in the records, not in the experiment.
    plans = [record.plan or {} for record in view.records]
    derived = [plan[TARGET] for plan in plans if TARGET in plan]
    target_s = derived[0] if derived else view.limits.get(TARGET)
    if target_s is not None:
        panels.append(_mean_latency(view, target_s))
    if "pruning_budget" in view.limits and any(_pruning(view)):
        panels.append(_mean_pruning(view, view.limits["pruning_budget"]))
    return panels


def _mean_latency(view: RunView, target_s: float) -> Panel:
    latency = [record.latency_s for record in view.records]
    means = [total / (k + 1) for k, total in enumerate(accumulate(latency))]
    made = figure("round", "latency [s]")
    made.add_scatter(
        x=view.rounds,
        y=latency,
        name="of the round",
        mode="markers",
        marker={"color": line(0)["color"], "size": 5},
    )
    made.add_scatter(x=view.rounds, y=means, name="mean so far", mode="lines", line=line(1))
    _limit(made, target_s, f"long-term target {target_s:.4g} s")
    made.update_yaxes(rangemode="tozero")
    count_rounds(made, view.rounds)
    return Panel(
        "Long-term latency constraint",
        f"The mean latency is {means[-1]:.4g} s after {len(means)} rounds, "
        f"{means[-1] / target_s - 1:+.1%} from the target.",
        made,
    )


def _pruning(view: RunView) -> list[float]:
    """Mean pruning rate of every round with clients, weighted as in the budget."""
    means = []
    for record in view.records:
        if not record.clients:
            continue
        weights = [float(view.weights[entry.client]) for entry in record.clients]
        rates = [entry.pruning_rate or 0.0 for entry in record.clients]
        means.append(sum(w * r for w, r in zip(weights, rates, strict=True)) / sum(weights))
    return means


def _mean_pruning(view: RunView, budget: float) -> Panel:
    made = figure("round", "mean pruning rate [share removed]")
    rounds = [record.round for record in view.records if record.clients]
    made.add_scatter(
        x=rounds, y=_pruning(view), name="weighted mean", mode="lines+markers", line=line(0)
    )
    _limit(made, budget, f"budget {budget:g}")
    made.update_yaxes(range=[0, 1.15 * budget])
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
