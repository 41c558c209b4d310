"""Paths over rounds: constraints with their limits, queues, and what else a method measured."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from airtune.report.labels import quantity
from airtune.report.style import INK, Panel, count_rounds, figure, line
from airtune.report.view import Records, RunView, numbers

SHOWN_ELSEWHERE = {
    "round", "virtual_time_s", "latency_s", "planned_latency_s", "straggler", "straggler_stage",
    "train_loss", "test_loss", "uplink_bits", "downlink_bits", "energy_j", "skipped", "clients",
}  # fmt: skip
MOST_CURVES = 7
"""Numbers of one field that still make a readable figure."""


def extra_paths(records: Records) -> dict[str, dict[int, float]]:
    """Numbers of the rounds that no other panel shows, as key -> round -> value."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        own = {key: value for key, value in record.items() if key not in SHOWN_ELSEWHERE}
        for key, value in numbers(own, most=MOST_CURVES).items():
            found.setdefault(key, {})[record["round"]] = value
    return found


def extra_panels(view: RunView) -> list[Panel]:
    """One panel for the extra numbers that share their first word and unit."""
    groups: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for key, path in extra_paths(view.records).items():
        groups.setdefault((key.partition(".")[0], quantity(key).unit), {})[key] = path
    return [_group(view, first, paths) for (first, _), paths in groups.items()]


def extra_of_arms(arms: Sequence[tuple[str, Sequence[Records]]]) -> list[Panel]:
    """The same numbers as means over the seeds of each arm that records them."""
    panels = []
    tables = [
        (name, index, [extra_paths(records) for records in runs])
        for index, (name, runs) in enumerate(arms)
    ]
    keys = dict.fromkeys(key for _, _, runs in tables for run in runs for key in run)
    for key in keys:
        what = quantity(key)
        made = figure("round", what.axis)
        rounds = []
        for name, index, runs in tables:
            path = _mean_path([run[key] for run in runs if key in run])
            rounds += list(path)
            if path:
                made.add_scatter(x=list(path), y=[value * what.scale for value in path.values()],
                                 name=name, mode="lines", line=line(index))  # fmt: skip
        made.update_layout(showlegend=True)
        count_rounds(made, rounds)
        title = f"{what.label[0].upper()}{what.label[1:]} over rounds"
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


def _group(view: RunView, first: str, paths: Mapping[str, Mapping[int, float]]) -> Panel:
    shown = {key: quantity(key) for key in paths}
    one = next(iter(shown.values()))
    words = one.label if len(paths) == 1 else quantity(first).label
    made = figure("round", f"{words} [{one.unit}]")
    for index, (key, path) in enumerate(paths.items()):
        made.add_scatter(
            x=list(path), y=[value * shown[key].scale for value in path.values()],
            name=shown[key].label, mode="lines+markers", line=line(index), marker={"size": 4},
        )  # fmt: skip
    made.update_layout(showlegend=len(paths) > 1)
    count_rounds(made, view.rounds)
    return Panel(f"{words[0].upper()}{words[1:]} over rounds", "", made)


def constraint_panels(view: RunView) -> list[Panel]:
    """Constraints that bind over the whole run, as the path of what they limit."""
    panels = []
    if "latency_target_s" in view.limits:
        panels.append(_mean_latency(view, view.limits["latency_target_s"]))
    if "pruning_budget" in view.limits and any(_pruning(view)):
        panels.append(_mean_pruning(view, view.limits["pruning_budget"]))
    return panels


def _mean_latency(view: RunView, target_s: float) -> Panel:
    latency = [record["latency_s"] for record in view.records]
    means = [total / (k + 1) for k, total in enumerate(accumulate(latency))]
    made = figure("round", "latency [s]")
    made.add_scatter(x=view.rounds, y=latency, name="of the round", mode="markers",
                     marker={"color": line(0)["color"], "size": 5})  # fmt: skip
    made.add_scatter(x=view.rounds, y=means, name="mean so far", mode="lines", line=line(1))
    _limit(made, target_s, f"long-term target {target_s:g} s")
    made.update_yaxes(rangemode="tozero")
    count_rounds(made, view.rounds)
    return Panel(
        "Long-term latency constraint",
        f"The mean latency is {means[-1]:.4g} s after {len(means)} rounds, "
        f"{means[-1] / target_s - 1:+.1%} from the target.",
        made,
    )


def _pruning(view: RunView) -> list[float]:
    """Mean pruning rate of every round, weighted as in the budget."""
    means = []
    for record in view.records:
        weights = [float(view.weights[entry["client"]]) for entry in record["clients"]]
        rates = [entry.get("pruning_rate", 0.0) for entry in record["clients"]]
        means.append(sum(w * r for w, r in zip(weights, rates, strict=True)) / sum(weights))
    return means


def _mean_pruning(view: RunView, budget: float) -> Panel:
    made = figure("round", "mean pruning rate [share removed]")
    made.add_scatter(x=view.rounds, y=_pruning(view), name="weighted mean", mode="lines+markers",
                     line=line(0))  # fmt: skip
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
    made.add_hline(y=value, line={"color": INK, "dash": "dash", "width": 1},
                   annotation_text=words, annotation_position="top left")  # fmt: skip
