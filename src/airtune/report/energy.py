"""Energy by client, over all rounds."""

from airtune.quantities import format_quantity
from airtune.report.alike import called, groups, one_value
from airtune.report.labels import span
from airtune.report.style import PALETTE, Panel, figure
from airtune.report.view import MOST_CLIENTS, RunView, entries


def energy_by_client(view: RunView) -> Panel | str | None:
    """A bar a client, the largest first; one bar for clients that spent the same."""
    total: dict[int, float] = {}
    for _, entry in entries(view.records):
        total[entry.client] = total.get(entry.client, 0.0) + entry.energy_j
    if not total:
        return None
    if one_value(total.values()):
        each = format_quantity(next(iter(total.values())), "J")
        return f"Every client that took part spent {each} in all rounds together."
    alike = sorted(groups({c: [total[c]] for c in sorted(total)}), key=lambda g: -total[g[0]])
    shown = alike[:MOST_CLIENTS]
    unit = span(total[alike[0][0]], "J")
    made = figure(f"energy [{unit.unit}]", "client")
    made.add_bar(
        y=[called(clients, view.names) for clients in shown],
        x=[total[clients[0]] * unit.scale for clients in shown],
        orientation="h",
        marker_color=PALETTE[0],
        name="energy",
    )
    made.update_layout(height=max(340, 120 + 24 * len(shown)), showlegend=False)
    made.update_yaxes(autorange="reversed", type="category", showgrid=False)
    rest = len(alike) - len(shown)
    caption = "Computing and sending, over all rounds."
    if any(len(clients) > 1 for clients in shown):
        caption += " Clients that spent the same share a bar, which is what each of them spent."
    if rest:
        caption += f" The {len(shown)} largest; {rest} more are left out."
    return Panel("Energy by client", caption, made)
