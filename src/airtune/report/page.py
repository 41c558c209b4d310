"""`report.html` of one run."""

from collections.abc import Callable, Mapping
from html import escape

from airtune.report import html
from airtune.report.cell_map import cell_map
from airtune.report.costs import ENERGY, UPLINK, Cost
from airtune.report.curves import Curve, loss_against, train_and_test
from airtune.report.decisions import decision_panels
from airtune.report.energy import energy_by_client
from airtune.report.latency import by_client, by_round, planned_against_charged
from airtune.report.learning import client_learning, learning_rate
from airtune.report.links import link_panels
from airtune.report.pace import staleness, updates_by_client
from airtune.report.paths import constraint_panels, extra_panels
from airtune.report.real_time import real_time
from airtune.report.sections import Section, drawn, panels_of
from airtune.report.sentences import charged_as, further, run_sentences, unfinished
from airtune.report.style import Panel
from airtune.report.view import RunView


def _against(cost: Cost, title: str) -> Callable[[RunView], Panel]:
    def made(view: RunView) -> Panel:
        curve = Curve(view.summary["method"], [(view.summary["start_test_loss"], view.records)])
        return loss_against([curve], cost, None, title)

    return made


def _losses(view: RunView) -> Panel:
    return train_and_test(view.summary["start_test_loss"], view.records)


SECTIONS: tuple[Section[RunView], ...] = (
    Section(
        "Learning",
        (
            _losses,
            _against(UPLINK, "Loss against bytes sent up"),
            _against(ENERGY, "Loss against the clients' energy"),
            client_learning,
            learning_rate,
        ),
    ),
    Section(
        "Latency", (staleness, updates_by_client, by_round, by_client, planned_against_charged)
    ),
    Section("Energy and links", (energy_by_client, link_panels)),
    Section("Decisions and the cell", (decision_panels, cell_map)),
    Section("Constraints", (constraint_panels,)),
    Section("Measured by the method", (extra_panels,)),
    Section("Real time", (real_time,)),
)


def run_panels(view: RunView) -> dict[str, list[Panel]]:
    """Every figure of a run's page, by section; none before round 1."""
    return panels_of(SECTIONS, view) if view.records else {}


def render(view: RunView) -> str:
    """The whole page as HTML."""
    summary = view.summary
    return html.page(
        f"airtune: {summary['method']} on {summary['model']}",
        f"{html.note(unfinished(summary))}"
        f"{html.note(charged_as(summary['charge_as'], summary['model']))}"
        f"{html.sentences(run_sentences(view))}"
        f"{html.notices(further(summary.get('notices', ())))}"
        f"{drawn(SECTIONS, view) if view.records else ''}{_sample(summary['sample'])}"
        f"<details><summary>The experiment</summary><pre>{escape(view.experiment_yaml)}</pre>"
        "</details>",
    )


def _sample(sample: Mapping[str, str] | None) -> str:
    if sample is None:
        return ""
    rows = "".join(
        f"<tr><th>{title}</th><td>{escape(sample[key])}</td></tr>"
        for title, key in (
            ("Test prompt", "prompt"),
            ("Base model", "before"),
            ("Tuned model", "after"),
            ("Reference", "reference"),
        )
    )
    return html.section("What the model writes", f"<table>{rows}</table>")
