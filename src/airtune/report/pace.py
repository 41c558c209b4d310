"""Server steps that are not synchronous rounds: how old updates were, and whose they were."""

from collections import Counter

from airtune.federated.records.record import IN_TIME, LATE
from airtune.report.style import PALETTE, Panel, figure
from airtune.report.view import MOST_CLIENTS, RunView, entries, scheduled, short_name
from airtune.report.waiting import paced


def staleness(view: RunView) -> Panel | None:
    """Updates by their age, those that were merged and those that were dropped."""
    if not paced(view.records):
        return None
    made = figure("staleness [server steps]", "updates")
    for color, outcome, name in ((PALETTE[0], IN_TIME, "merged"), (PALETTE[1], LATE, "dropped")):
        ages = Counter(
            entry.staleness
            for _, entry in entries(view.records)
            if entry.outcome == outcome and entry.staleness is not None
        )
        if ages:
            made.add_bar(
                x=sorted(ages), y=[ages[age] for age in sorted(ages)], name=name, marker_color=color
            )
    made.update_layout(barmode="stack")
    return Panel(
        "Staleness of updates",
        "Server steps between the broadcast that a client trained from and its update.",
        made,
    )


def updates_by_client(view: RunView) -> Panel | None:
    """Updates that each client had merged, and the sum of their shares."""
    clients = scheduled(view.records)
    if not paced(view.records) or len(clients) > MOST_CLIENTS:
        return None
    merged = [entry for _, entry in entries(view.records) if entry.share is not None]
    counts = Counter(entry.client for entry in merged)
    weight = dict.fromkeys(clients, 0.0)
    for entry in merged:
        weight[entry.client] += entry.share or 0.0
    total = sum(weight.values()) or 1.0
    made = figure("updates merged", "client", height=max(260, 110 + 26 * len(clients)))
    made.add_bar(
        y=[short_name(view.names[client]) for client in clients],
        x=[counts[client] for client in clients],
        orientation="h",
        marker_color=PALETTE[0],
        text=[f"{weight[client] / total:.0%} of all shares" for client in clients],
    )
    made.update_yaxes(autorange="reversed", showgrid=False, type="category")
    made.update_layout(showlegend=False)
    return Panel(
        "Updates of each client", "Fast clients answer more often, so they count for more.", made
    )
