"""Real seconds of the rounds, by stage: what the machine was busy with, from `timing.jsonl`."""

from collections.abc import Mapping
from typing import Any

from airtune.federated.records.stopwatch import STAGES
from airtune.report.alike import stretches
from airtune.report.style import PALETTE, Panel, count_rounds, figure
from airtune.report.view import RunView

OTHER = "other"
MOST_ROUNDS = 200


def by_stage(timing: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of one round by stage; what no stage claims is `other`."""
    spent = {name: float(timing["stages"].get(name, 0.0)) for name in STAGES}
    return {**spent, OTHER: max(0.0, float(timing["real_s"]) - sum(spent.values()))}


def real_time(view: RunView) -> Panel | None:
    """Stacked bars over rounds; None without timings, as on the page that a run leaves behind."""
    if not view.timings:
        return None
    made = figure("round", "real time [s]")
    spent = [by_stage(timing) for timing in view.timings]
    numbers = [int(timing["round"]) for timing in view.timings]
    parts = stretches(len(spent), MOST_ROUNDS)
    for color, stage in zip(PALETTE, (*STAGES, OTHER), strict=True):
        means = [sum(s[stage] for s in spent[p]) / (p.stop - p.start) for p in parts]
        if any(means):
            made.add_bar(
                x=[numbers[p.stop - 1] for p in parts],
                y=means,
                name=stage,
                marker_color=color,
                width=parts[0].stop - parts[0].start if len(parts) > 1 else None,
            )
    made.update_layout(barmode="stack", legend_traceorder="normal", showlegend=True)
    count_rounds(made, numbers)
    total = sum(sum(s.values()) for s in spent)
    caption = (
        f"On this machine, {total:.4g} s in {len(spent)} rounds; the virtual clock ignores it."
    )
    if len(parts) < len(spent):
        caption += f" Means over {parts[0].stop} rounds."
    return Panel("Real time of each round, by stage", caption, made)
