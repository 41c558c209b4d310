"""Where the time of a round goes: by stage, by client, as planned and as charged."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean as mean
from typing import Any

from airtune.federated.records.record import RoundRecord
from airtune.report.alike import SAME, called, groups, one_value, stretches, thinned
from airtune.report.style import PALETTE, Panel, count_rounds, figure
from airtune.report.view import MOST_CLIENTS, STAGES, Records, RunView, entries
from airtune.report.waiting import (
    IDLE,
    NO_CLIENT,
    last_clients,
    paced,
    stage_seconds,
    together,
    waited_for,
)

LABELLED_ROUNDS = 40
MOST_ROUNDS = 200
"""Of more rounds, means over stretches are drawn."""


def stages(records: Records) -> list[str]:
    """The stages that took any time in this run."""
    found: set[str] = set()
    for _, entry in entries(records):
        found |= {stage for stage in STAGES if stage not in found and getattr(entry, stage)}
    return [stage for stage in STAGES if stage in found]


def _height(usual: int, records: Records) -> int:
    """Room for the legend of a split model's many stages."""
    return usual + 24 * max(0, len(stages(records)) - 3)


def by_round(view: RunView) -> Panel | str | None:
    """The last client's stages in every round, stacked; planned latency beside them.

    A sentence where every round was like every other; nothing for steps that wait for no client.
    """
    if paced(view.records):
        return None
    spent = [stage_seconds(record) for record in view.records]
    words = _stages_of(spent)
    table = [[seconds.get(stage, 0.0) for stage in words] for seconds in spent]
    if all(map(one_value, zip(*table, strict=True))) and departure(view.records) in (None, 0.0):
        return _one_latency(view.records[0], spent[0])
    made = figure("round", "latency [s]")
    parts = stretches(len(view.records), MOST_ROUNDS)
    _add_stages(made, view, parts, words, table)
    _add_planned(made, view, parts)
    if len(view.records) <= LABELLED_ROUNDS:
        made.add_scatter(
            x=view.rounds,
            y=[record.latency_s for record in view.records],
            mode="text",
            showlegend=False,
            hoverinfo="skip",
            text=[_label(record) for record in view.records],
            textposition="top center",
            name="last client",
        )
    _add_deadline(made, view)
    made.update_layout(
        barmode="stack", legend_traceorder="normal", height=_height(340, view.records)
    )
    most = max(max(r.latency_s, r.planned_latency_s) for r in view.records)
    made.update_yaxes(range=[0, 1.12 * most])
    count_rounds(made, view.rounds)
    return Panel("Latency of each round, by stage", _by_round_caption(view, parts), made)


def _one_latency(record: RoundRecord, spent: Mapping[str, float]) -> str:
    stages = ", ".join(f"{words} {seconds:.4g} s" for words, seconds in spent.items() if seconds)
    return f"Every round took {record.latency_s:.4g} s as planned: {stages or 'no stage'}."


def _add_stages(
    made: Any,
    view: RunView,
    parts: Sequence[slice],
    words: Sequence[str],
    table: Sequence[Sequence[float]],
) -> None:
    """A bar a stretch of rounds and stage, its mean [s]."""
    single = len(parts) == len(view.records)
    told = [waited_for(record, view.names) for record in view.records] if single else None
    last = "<br>last: %{customdata}" if single else ""
    for color, (place, stage) in zip(PALETTE, enumerate(words), strict=False):
        made.add_bar(
            x=[view.rounds[part.stop - 1] for part in parts],
            y=[mean(row[place] for row in table[part]) for part in parts],
            name=stage,
            marker_color=color,
            customdata=told,
            width=None if single else parts[0].stop,
            hovertemplate=f"round %{{x}}, {stage}: %{{y:.3g}} s{last}<extra></extra>",
        )


def _add_planned(made: Any, view: RunView, parts: Sequence[slice]) -> None:
    """Planned latencies, where they are not the charged ones."""
    if (departure(view.records) or 0.0) <= SAME:
        return
    made.add_scatter(
        x=[view.rounds[part.stop - 1] for part in parts],
        y=[mean(record.planned_latency_s for record in view.records[part]) for part in parts],
        name="planned latency",
        mode="markers",
        marker={"color": "#000000", "symbol": "diamond-open", "size": 7},
    )


def _add_deadline(made: Any, view: RunView) -> None:
    if "deadline_s" in view.limits:
        made.add_hline(
            y=view.limits["deadline_s"],
            line={"dash": "dash", "width": 1},
            annotation_text="deadline",
        )


def _by_round_caption(view: RunView, parts: Sequence[slice]) -> str:
    same, rounds = sum(map(together, view.records)), len(view.records)
    caption = "Mean over the clients that ended last together. "
    caption += f"All of a round's clients ended together in {same} of {rounds} rounds. "
    if rounds <= LABELLED_ROUNDS and same < rounds:
        caption += "The number above a bar is the client that the round waited for."
    if len(parts) < rounds:
        caption += f"A bar is the mean of {parts[0].stop} rounds."
    return caption.strip()


def _label(record: RoundRecord) -> str:
    """The client above a bar; nothing where all ended together, a number where several did."""
    last = last_clients(record)
    if not last or together(record):
        return ""
    return f"{last[0].client}" if len(last) == 1 else f"{len(last)} clients"


def _stages_of(spent: Sequence[Mapping[str, float]]) -> list[str]:
    """The stages [words] that took any time, in the order of a round."""
    order = [*STAGES.values(), IDLE, NO_CLIENT]
    return [words for words in order if any(seconds.get(words, 0.0) > 0 for seconds in spent)]


def by_client(view: RunView) -> Panel | str | None:
    """Mean delay of each client in each stage, over the rounds it took part in.

    One bar for clients with the same delays; a sentence where all have them.
    """
    means = _mean_stages(view.records)
    if not means:
        return None
    apart = [record for record in view.records if not together(record)]
    times = Counter(entry.client for record in apart for entry in last_clients(record))
    # A client that was last more often than another is not its equal.
    rows = {client: [*means[client].values(), times[client]] for client in sorted(means)}
    alike = sorted(groups(rows), key=lambda clients: -sum(means[clients[0]].values()))
    if len(alike) == 1:
        return _equal_clients(means[alike[0][0]], len(alike[0]))
    shown = alike[:MOST_CLIENTS]
    made = figure("mean delay [s]", "client")
    labels = [
        called(clients, view.names) + (f", last {times[clients[0]]}×" if apart else "")
        for clients in shown
    ]
    for color, stage in zip(PALETTE, stages(view.records), strict=False):
        made.add_bar(
            y=labels,
            x=[means[clients[0]][stage] for clients in shown],
            name=STAGES[stage],
            orientation="h",
            marker_color=color,
        )
    made.update_layout(
        barmode="stack",
        legend_traceorder="normal",
        height=_height(max(340, 120 + 24 * len(shown)), view.records),
    )
    made.update_yaxes(autorange="reversed", title="client", showgrid=False, type="category")
    return Panel(
        "Mean time of a round, by client and stage", _by_client_caption(alike, bool(apart)), made
    )


def _equal_clients(means: Mapping[str, float], count: int) -> str:
    spent = ", ".join(f"{STAGES[stage]} {mean:.4g} s" for stage, mean in means.items() if mean)
    who = f"Each of the {count} clients" if count > 1 else "The client"
    return f"{who} took the same mean time in the rounds it took part in: {spent}."


def _by_client_caption(alike: Sequence[Sequence[int]], apart: bool) -> str:
    rest = len(alike) - MOST_CLIENTS
    caption = f"The slowest {MOST_CLIENTS}; {rest} faster ones are left out. " if rest > 0 else ""
    if any(len(clients) > 1 for clients in alike):
        caption += "Clients with the same times share a bar. "
    if apart:
        caption += "“last 3×”: the round waited for this client three times."
    return caption.strip()


def _mean_stages(records: Records) -> dict[int, dict[str, float]]:
    """Mean delay of every scheduled client in every stage."""
    sums: dict[int, dict[str, float]] = {}
    counts: Counter[int] = Counter()
    for _, entry in entries(records):
        counts[entry.client] += 1
        total = sums.setdefault(entry.client, dict.fromkeys(STAGES, 0.0))
        for stage in STAGES:
            total[stage] += getattr(entry, stage) or 0.0
    return {
        client: {stage: spent / counts[client] for stage, spent in total.items()}
        for client, total in sums.items()
    }


def departure(records: Records) -> float | None:
    """Largest |charged / planned - 1|; None where no latency was predicted."""
    ratios = [
        abs(record.latency_s / record.planned_latency_s - 1.0)
        for record in records
        if record.planned_latency_s > 0
    ]
    return max(ratios, default=None)


def planned_against_charged(view: RunView) -> Panel | None:
    """A point a round; None where the plan came true to the last digit, or steps are no rounds."""
    worst = None if paced(view.records) else departure(view.records)
    if worst is None or worst <= SAME:
        return None
    made = figure("planned latency [s]", "charged latency [s]")
    planned, charged = thinned(
        [record.planned_latency_s for record in view.records],
        [record.latency_s for record in view.records],
    )
    rounds = thinned(view.rounds, view.rounds)[0]
    ends = [0.0, 1.05 * max([*planned, *charged])]
    made.add_scatter(
        x=planned,
        y=charged,
        mode="markers",
        name="a round",
        text=[f"round {number}" for number in rounds],
        marker={"color": PALETTE[0], "size": 8},
    )
    made.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        name="as planned",
        hoverinfo="skip",
        line={"color": PALETTE[6], "dash": "dash", "width": 1},
    )
    return Panel(
        "Planned against charged latency",
        f"A point above the line is a round that took longer than planned; at most {worst:.1%} "
        "off.",
        made,
    )


def of_arms(arms: Sequence[tuple[str, Sequence[Records]]]) -> Panel:
    """Mean latency of a round in each arm, by stage of the client that the round waited for."""
    made = figure("mean latency of a round, by stage [s]", "arm")
    labels = [name for name, _ in arms]
    joined = [[record for records in runs for record in records] for _, runs in arms]
    spent = [[stage_seconds(record) for record in records] for records in joined]
    for color, words in zip(PALETTE, _stages_of([s for arm in spent for s in arm]), strict=False):
        means = [sum(s.get(words, 0.0) for s in arm) / len(arm) for arm in spent]
        made.add_bar(y=labels, x=means, name=words, orientation="h", marker_color=color)
    made.update_layout(
        barmode="stack",
        legend_traceorder="normal",
        height=_height(
            max(300, 130 + 30 * len(labels)), [r for records in joined for r in records]
        ),
    )
    made.update_yaxes(autorange="reversed", showgrid=False)
    return Panel(
        "Where a round's time goes", "Mean over the clients that a round waited for.", made
    )
