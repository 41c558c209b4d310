"""Paths over rounds: constraints with their limits, queues, and what else a method measured."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from airtune.report.labels import DIMENSIONLESS, quantity
from airtune.report.style import INK, Panel, count_rounds, figure, line
from airtune.report.view import Records, RunView, numbers

SHOWN_ELSEWHERE = {
    "round", "virtual_time_s", "latency_s", "planned_latency_s", "straggler", "straggler_stage",
    "train_loss", "test_loss", "uplink_bits", "downlink_bits", "energy_j", "skipped", "clients",
    "latency_target_s", "idle_s", "server_s", "server_flops", "server_energy_j",
}  # fmt: skip
GROUPS = {
    "Virtual queue": ("virtual_queue_s",),
    "Orthogonality of the factors": ("cosine_a", "cosine_b"),
    "Squared norms: the update, and what the server does not get of it": (
        "update_energy", "rank_energy", "dropped_energy", "covariance_energy",
    ),
    "Objective of each round": ("objective", "objective_lower_bound"),
}  # fmt: skip
"""Recorded numbers that one figure shows together."""
ONE_RUN_ONLY = ("objective", "objective_lower_bound")
"""Numbers that mean nothing beside those of another arm."""
LOG_FROM = 100.0
"""Curves whose values span more than this factor share a logarithmic axis."""
WRAPPERS = ("plan.", "measured.")
"""Fields of a record that only say where their numbers come from."""
MOST_CURVES = 7
"""Numbers of one field that still make a readable figure."""


def extra_paths(records: Records) -> dict[str, dict[int, float]]:
    """Numbers of the rounds that no other panel shows, as key -> round -> value."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        for key, value in numbers(record, most=MOST_CURVES).items():
            name = key.removeprefix(WRAPPERS[0]).removeprefix(WRAPPERS[1])
            if name.partition(".")[0] not in SHOWN_ELSEWHERE:
                found.setdefault(name, {})[record["round"]] = value
    return found


def extra_panels(view: RunView) -> list[Panel]:
    """A panel for each group of numbers that belong together, and for each number without one."""
    paths = extra_paths(view.records)
    grouped = {key for keys in GROUPS.values() for key in keys}
    panels = [
        _group(view, title, {key: paths[key] for key in keys if key in paths})
        for title, keys in GROUPS.items()
        if any(key in paths for key in keys)
    ]
    rest: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for key, path in paths.items():
        if key not in grouped:
            rest.setdefault((key.partition(".")[0], quantity(key).unit), {})[key] = path
    for (first, _), several in rest.items():
        words = quantity(first if len(several) > 1 else next(iter(several))).label
        panels.append(_group(view, f"{words[0].upper()}{words[1:]} over rounds", several))
    return panels


def extra_of_arms(arms: Sequence[tuple[str, Sequence[Records]]]) -> list[Panel]:
    """The same numbers as means over the seeds of each arm that records them."""
    panels = []
    tables = [
        (name, index, [extra_paths(records) for records in runs])
        for index, (name, runs) in enumerate(arms)
    ]
    keys = dict.fromkeys(key for _, _, runs in tables for run in runs for key in run)
    for key in (key for key in keys if key not in ONE_RUN_ONLY):
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


def _group(view: RunView, title: str, paths: Mapping[str, Mapping[int, float]]) -> Panel:
    shown = {key: quantity(key) for key in paths}
    one = next(iter(shown.values()))
    several = "value" if one.unit == DIMENSIONLESS else f"value [{one.unit}]"
    made = figure("round", one.axis if len(paths) == 1 else several)
    for index, (key, path) in enumerate(paths.items()):
        made.add_scatter(
            x=list(path), y=[value * shown[key].scale for value in path.values()],
            name=shown[key].label, mode="lines+markers", line=line(index), marker={"size": 4},
        )  # fmt: skip
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
    derived = [r["plan"]["latency_target_s"] for r in view.records
               if "latency_target_s" in r.get("plan", {})]  # fmt: skip
    target_s = derived[0] if derived else view.limits.get("latency_target_s")
    if target_s is not None:
        panels.append(_mean_latency(view, target_s))
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
        if not record["clients"]:
            continue
        weights = [float(view.weights[entry["client"]]) for entry in record["clients"]]
        rates = [entry.get("pruning_rate", 0.0) for entry in record["clients"]]
        means.append(sum(w * r for w, r in zip(weights, rates, strict=True)) / sum(weights))
    return means


def _mean_pruning(view: RunView, budget: float) -> Panel:
    made = figure("round", "mean pruning rate [share removed]")
    rounds = [record["round"] for record in view.records if record["clients"]]
    made.add_scatter(x=rounds, y=_pruning(view), name="weighted mean", mode="lines+markers",
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
