"""A self-contained page: plotly's script once, then headings, words and figures."""

from collections.abc import Sequence
from html import escape

from airtune.report.style import Panel

_STYLE = """
body { font: 16px/1.5 system-ui, 'Liberation Sans', sans-serif; color: #222; max-width: 80rem;
       margin: 1.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin: 0 0 .6rem; } h2 { font-size: 1.25rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1.02rem; margin: 0; }
p { margin: .3rem 0; max-width: 62rem; } ul.said { margin: .4rem 0 0; padding-left: 1.2rem; }
.panels { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.6rem 2rem; }
.panel { min-width: 0; break-inside: avoid; } .panel.wide { grid-column: 1 / -1; }
.panel p { font-size: .88rem; color: #555; margin: .1rem 0 .2rem; }
.note { background: #fff3cd; padding: .5rem .8rem; border-left: 4px solid #cc9900;
        margin: .8rem 0; }
table { border-collapse: collapse; font-size: .92rem; width: 100%; }
th { text-align: left; vertical-align: bottom; } thead th { border-bottom: 2px solid #222; }
tbody th { font-weight: 600; white-space: nowrap; vertical-align: top; }
td, th { padding: .3rem .8rem .3rem 0; } tr + tr td, tr + tr th { border-top: 1px solid #e4e4e4; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td small { color: #666; white-space: nowrap; }
pre { background: #f6f6f4; padding: .8rem; overflow-x: auto; white-space: pre-wrap;
      font-size: .85rem; }
details { margin-top: 1.5rem; } summary { cursor: pointer; font-weight: 600; }
@media (max-width: 60rem) { .panels { grid-template-columns: minmax(0, 1fr); } }
@media print {
  body { font-size: 11pt; max-width: none; margin: 0; }
  h2, h3 { break-after: avoid; } .panels { display: block; } .panel { margin-bottom: 1rem; }
  details:not([open]) { display: none; } a { color: inherit; text-decoration: none; }
}
@page { size: A4; margin: 14mm; }
"""
_PRINT = """
const figures = () => document.querySelectorAll('.plotly-graph-div');
window.addEventListener('beforeprint', () => figures().forEach(f => Plotly.relayout(f, {width: 660, autosize: false})));
window.addEventListener('afterprint', () => figures().forEach(f => Plotly.relayout(f, {width: null, autosize: true})));
"""  # noqa: E501


def sentences(told: Sequence[str]) -> str:
    """A list of sentences."""
    return f'<ul class="said">{"".join(f"<li>{escape(text)}</li>" for text in told)}</ul>'


def note(text: str) -> str:
    """A sentence that must not be overlooked; nothing for no text."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def section(title: str, body: str) -> str:
    """A heading and what is under it; nothing for nothing."""
    anchor = title.lower().replace(" ", "-")
    return f'<h2 id="{anchor}">{escape(title)}</h2>{body}' if body else ""


def panels(made: Sequence[Panel], prefix: str) -> str:
    """Figures, the first wide where their number is odd, so that the grid has no hole.

    Ids are fixed, so that the same run renders to the same bytes.
    """
    return "".join(
        f'<div class="panel{" wide" if len(made) % 2 and index == 0 else ""}">'
        f"<h3>{escape(panel.title)}</h3><p>{escape(panel.caption)}</p>"
        f"{_drawn(panel, f'{prefix}-{index}')}</div>"
        for index, panel in enumerate(made)
    )


def grid(made: Sequence[Panel], prefix: str) -> str:
    """The grid around panels; nothing for none."""
    return f'<div class="panels">{panels(made, prefix)}</div>' if made else ""


def _drawn(panel: Panel, name: str) -> str:
    html: str = panel.figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"displayModeBar": False, "responsive": True},
    )
    return html


def page(title: str, body: str) -> str:
    """The whole document; it asks nothing of a network."""
    from plotly.offline import get_plotlyjs

    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body><h1>{escape(title)}</h1>{body}"
        f"<script>{_PRINT}</script></body></html>\n"
    )
