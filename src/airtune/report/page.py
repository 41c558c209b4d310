"""`report.html` of one run."""

from collections.abc import Mapping
from html import escape

from airtune.report import html
from airtune.report.cell_map import cell_map
from airtune.report.curves import Curve, loss_panels, train_and_test
from airtune.report.decisions import decision_panels
from airtune.report.latency import by_client, by_round, planned_against_charged
from airtune.report.paths import constraint_panels, extra_panels
from airtune.report.sentences import charged_as, run_sentences
from airtune.report.style import Panel
from airtune.report.view import RunView


def run_panels(view: RunView) -> dict[str, list[Panel]]:
    """Every figure of a run's page, by section; none before round 1."""
    if not view.records:
        return {}
    curve = Curve(view.summary["method"], [(view.summary["start_test_loss"], view.records)])
    optional = [planned_against_charged(view)]
    place = cell_map(view)
    return {
        "Learning": [
            train_and_test(view.summary["start_test_loss"], view.records),
            *loss_panels([curve])[1:],
        ],
        "Latency": [by_round(view), by_client(view), *(p for p in optional if p is not None)],
        "Decisions and the cell": [*decision_panels(view), *([] if place is None else [place])],
        "Constraints": constraint_panels(view),
        "Measured by the method": extra_panels(view),
    }


def render(view: RunView) -> str:
    """The whole page as HTML."""
    summary = view.summary
    sections = "".join(
        html.section(title, html.grid(panels, f"figure-{index}"))
        for index, (title, panels) in enumerate(run_panels(view).items())
    )
    return html.page(
        f"airtune: {summary['method']} on {summary['model']}",
        f"{html.note(charged_as(summary['charge_as'], summary['model']))}"
        f"{html.sentences(run_sentences(view))}"
        f"{html.notices(summary.get('notices', ()))}{sections}{_sample(summary['sample'])}"
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
