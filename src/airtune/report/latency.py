"""Where the time of a round goes: by stage, by client, as planned and as charged."""

from collections import Counter
from collections.abc import Mapping, Sequence

from airtune.federated.records.record import RoundRecord
from airtune.report.style import PALETTE, Panel, count_rounds, figure
from airtune.report.view import STAGES, Records, RunView, entries, stage_s
from airtune.report.waiting import (
    IDLE,
    NO_CLIENT,
    last_clients,
    stage_seconds,
    together,
    waited_for,
)

SAME = 1e-6
"""Planned and charged latency that differ by less are one number."""
MOST_CLIENTS = 40
LABELLED_ROUNDS = 40


def stages(records: Records) -> list[str]:
    """The stages that took any time in this run."""
    return [stage for stage in STAGES if any(stage_s(e, [stage]) > 0 for _, e in entries(records))]


def _height(usual: int, records: Records) -> int:
    """Room for the legend of a split model's many stages."""
    return usual + 24 * max(0, len(stages(records)) - 3)


def by_round(view: RunView) -> Panel:
    """The last client's stages in every round, stacked; planned latency beside them."""
    made = figure("round", "latency [s]")
    spent = [stage_seconds(record) for record in view.records]
    told = [waited_for(record, view.names) for record in view.records]
    for color, words in zip(PALETTE, _stages_of(spent), strict=False):
        made.add_bar(
            x=view.rounds,
            y=[seconds.get(words, 0.0) for seconds in spent],
            name=words,
            marker_color=color,
            customdata=told,
            hovertemplate=f"round %{{x}}, {words}: %{{y:.3g}} s<br>last: %{{customdata}}"
            "<extra></extra>",
        )
    charged = [record.latency_s for record in view.records]
    planned = [record.planned_latency_s for record in view.records]
    if (departure(view.records) or 0.0) > SAME:
        shape = {"color": "#000000", "symbol": "diamond-open", "size": 7}
        made.add_scatter(
            x=view.rounds, y=planned, name="planned latency", mode="markers", marker=shape
        )
    if len(view.records) <= LABELLED_ROUNDS:
        made.add_scatter(
            x=view.rounds,
            y=charged,
            mode="text",
            showlegend=False,
            hoverinfo="skip",
            text=[_label(record) for record in view.records],
            textposition="top center",
            name="last client",
        )
    if "deadline_s" in view.limits:
        made.add_hline(
            y=view.limits["deadline_s"],
            line={"dash": "dash", "width": 1},
            annotation_text="deadline",
        )
    made.update_layout(
        barmode="stack", legend_traceorder="normal", height=_height(340, view.records)
    )
    made.update_yaxes(range=[0, 1.12 * max([*charged, *planned])])
    count_rounds(made, view.rounds)
    return Panel("Latency of each round, by stage", _by_round_caption(view), made)


def _by_round_caption(view: RunView) -> str:
    same, rounds = sum(map(together, view.records)), len(view.records)
    caption = "Mean over the clients that ended last together. "
    caption += f"All of a round's clients ended together in {same} of {rounds} rounds. "
    if rounds <= LABELLED_ROUNDS and same < rounds:
        caption += "The number above a bar is the client that the round waited for."
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


def by_client(view: RunView) -> Panel:
    """Mean delay of each client in each stage, over the rounds it took part in."""
    made = figure("mean delay [s]", "client")
    means = _mean_stages(view.records)
    clients = sorted(means, key=lambda client: (-sum(means[client].values()), client))
    shown = clients[:MOST_CLIENTS]
    apart = [record for record in view.records if not together(record)]
    times = Counter(entry.client for record in apart for entry in last_clients(record))
    labels = [short_name(view.names[c]) + (f", last {times[c]}×" if apart else "") for c in shown]
    for color, stage in zip(PALETTE, stages(view.records), strict=False):
        made.add_bar(
            y=labels,
            x=[means[client][stage] for client in shown],
            name=STAGES[stage],
            orientation="h",
            marker_color=color,
        )
    made.update_layout(
        barmode="stack",
        legend_traceorder="normal",
        height=_height(max(340, 120 + 24 * len(shown)), view.records),
    )
    made.update_yaxes(autorange="reversed", title="client", showgrid=False)
    rest = len(clients) - len(shown)
    caption = f"The slowest {MOST_CLIENTS}; {rest} faster clients are left out. " if rest else ""
    return Panel(
        "Mean time of a round, by client and stage",
        caption + ("“last 3×”: the round waited for this client three times." if apart else ""),
        made,
    )


def short_name(name: str) -> str:
    """`client 6 (pixel-9)` as `6 pixel-9`, where an axis names them as clients."""
    return name.removeprefix("client ").replace("(", "").replace(")", "")


def _mean_stages(records: Records) -> dict[int, dict[str, float]]:
    """Mean delay of every scheduled client in every stage."""
    sums: dict[int, dict[str, float]] = {}
    counts: Counter[int] = Counter()
    for _, entry in entries(records):
        counts[entry.client] += 1
        total = sums.setdefault(entry.client, dict.fromkeys(STAGES, 0.0))
        for stage in STAGES:
            total[stage] += stage_s(entry, [stage])
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
    """A point a round; None where the plan came true to the last digit."""
    worst = departure(view.records)
    if worst is None or worst <= SAME:
        return None
    made = figure("planned latency [s]", "charged latency [s]")
    planned = [record.planned_latency_s for record in view.records]
    charged = [record.latency_s for record in view.records]
    ends = [0.0, 1.05 * max([*planned, *charged])]
    made.add_scatter(
        x=planned,
        y=charged,
        mode="markers",
        name="a round",
        text=[f"round {number}" for number in view.rounds],
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
