"""How clients learn: the loss and the update of each, and the learning rate they step with.

Runs of earlier versions have none of it recorded.
"""

from operator import attrgetter

from airtune.report.alike import finite, flat, one_value, thinned
from airtune.report.client_paths import Measure, by_client, over_rounds, steady
from airtune.report.style import Panel, count_rounds, figure, line
from airtune.report.view import RunView

LOSS = Measure("train loss of the clients", "nat", attrgetter("train_loss"))
UPDATE = Measure("norm of the clients' updates", "", attrgetter("update_norm"))


def client_learning(view: RunView) -> list[Panel | str]:
    """Train loss and update norm of every client over the rounds."""
    made: list[Panel | str] = []
    for measure in (LOSS, UPDATE):
        table = by_client(view, measure)
        values = [value for path in table.values() for value in finite(path)]
        if values:
            same = one_value(values)
            made.append(steady(measure, values[0]) if same else over_rounds(view, measure, table))
    return made


def learning_rate(view: RunView) -> Panel | str | None:
    """The rate that the schedule gave each round."""
    rates = {r.round: r.learning_rate for r in view.records if r.learning_rate is not None}
    if not rates:
        return None
    if flat(rates.values()):
        return f"The learning rate was {next(iter(rates.values())):.4g} in every round."
    made = figure("round", "learning rate")
    x, y = thinned(list(rates), list(rates.values()))
    made.add_scatter(
        x=x,
        y=y,
        name="learning rate",
        mode="lines+markers" if len(x) <= 60 else "lines",
        line=line(0),
        marker={"size": 4},
    )
    made.update_layout(showlegend=False)
    made.update_yaxes(rangemode="tozero")
    count_rounds(made, view.rounds)
    return Panel("Learning rate over rounds", "", made)
