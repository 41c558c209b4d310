"""`report.html`: one self-contained page about one run, readable without a network."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from airtune.quantities import format_duration, format_quantity
from airtune.report import figures

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: #f6f6f4; padding: .8rem; overflow-x: auto; white-space: pre-wrap; }
.note { background: #fff6dd; padding: .6rem .8rem; }
"""


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("Model", summary["model"]),
        ("Method", summary["method"]),
        ("Rounds", f"{summary['rounds']}"),
        ("Test loss", f"{summary['start_test_loss']:.4f} → {summary['final_test_loss']:.4f} nat"),
        ("Virtual time", format_duration(summary["virtual_time_s"])),
        ("Sent up", format_quantity(summary["uplink_bits"] / 8, "B")),
        ("Broadcast", format_quantity(summary["downlink_bits"] / 8, "B")),
        ("Energy of the clients", format_quantity(summary["energy_j"], "J")),
    ]
    facts += [
        (name, f"{scores['before']:.1%} → {scores['after']:.1%} ({scores['examples']} examples)")
        for name, scores in summary["scores"].items()
    ]
    return facts


def _sample(sample: Mapping[str, str] | None) -> str:
    if sample is None:
        return ""
    parts = [
        f"<h2>{title}</h2><pre>{escape(sample[key])}</pre>"
        for title, key in (
            ("A test prompt", "prompt"),
            ("The base model continues", "before"),
            ("The tuned model continues", "after"),
            ("The reference", "reference"),
        )
    ]
    return "".join(parts)


def render(
    summary: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    position_m: Sequence[Sequence[float]],
    experiment_yaml: str,
) -> str:
    """The whole page as HTML; plotly's script is embedded once."""
    drawn = [
        figures.loss_over_time(records, summary["start_test_loss"]),
        figures.latency_over_rounds(records, names),
        figures.mean_stages(records, names),
        figures.bandwidth_over_rounds(records, names),
        figures.cell_map(position_m, names),
    ]
    panels = [
        # Fixed ids: the same run renders to the same bytes.
        figure.to_html(
            full_html=False,
            include_plotlyjs=index == 0,
            div_id=f"figure-{index}",
            config={"displayModeBar": False, "responsive": True},
        )
        for index, figure in enumerate(drawn)
    ]
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in _facts(summary)
    )
    charged = (
        f'<p class="note">Time, bits and energy are charged as if '
        f"{escape(str(summary['charge_as']))} were trained; the learning is that of "
        f"{escape(summary['model'])}.</p>"
        if summary["charge_as"]
        else ""
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>airtune: {escape(summary['method'])}</title><style>{_STYLE}</style></head><body>"
        f"<h1>airtune: {escape(summary['method'])} on {escape(summary['model'])}</h1>"
        f"{charged}<table>{rows}</table>{''.join(panels)}{_sample(summary['sample'])}"
        f"<h2>The experiment</h2><pre>{escape(experiment_yaml)}</pre></body></html>\n"
    )
