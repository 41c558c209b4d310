"""A page that opens without a network: the plotting script, headings, words and figures."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import cache
from html import escape
from importlib.resources import files

from airtune.report.style import Panel

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --quiet: #555; --rule: #e4e4e4; --paper: #fff;
        --box: #f6f6f4; --note: #fff3cd; --mark: #cc9900; --link: #0645ad; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #ddd; --quiet: #aaa;
        --rule: #3a3a3a; --paper: #181818; --box: #242424; --note: #3a3212; --link: #8ab4f8; } }
body { font: 16px/1.5 system-ui, 'Liberation Sans', sans-serif; color: var(--ink);
       background: var(--paper); max-width: 80rem; margin: 1.5rem auto; padding: 0 1.2rem; }
a { color: var(--link); }
h1 { font-size: 1.6rem; margin: 0 0 .6rem; } h2 { font-size: 1.25rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1.02rem; margin: 0; }
.scroll + h3 { margin-top: 1.6rem; }
p { margin: .3rem 0; max-width: 62rem; } ul.said { margin: .4rem 0 0; padding-left: 1.2rem; }
.panels { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.6rem 2rem; }
.panel { min-width: 0; break-inside: avoid; } .panel.wide { grid-column: 1 / -1; }
.panel p { font-size: .88rem; color: var(--quiet); margin: .1rem 0 .2rem; }
.note { background: var(--note); padding: .5rem .8rem; border-left: 4px solid var(--mark);
        margin: .8rem 0; }
table { border-collapse: collapse; font-size: .92rem; width: 100%; }
th { text-align: left; vertical-align: bottom; } thead th { border-bottom: 2px solid var(--ink); }
tbody th { font-weight: 600; white-space: nowrap; vertical-align: top; }
td, th { padding: .3rem .8rem .3rem 0; }
tr + tr td, tr + tr th { border-top: 1px solid var(--rule); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
div.scroll { overflow-x: auto; } div.scroll td.number { white-space: nowrap; }
td small { color: var(--quiet); white-space: nowrap; }
pre { background: var(--box); padding: .8rem; overflow-x: auto; white-space: pre-wrap;
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
_DRAW = """
const dark = matchMedia('(prefers-color-scheme: dark)');
const night = {'#222222': '#dddddd', '#000000': '#ffffff', '#eeeeee': '#333333',
               'rgb(36,36,36)': 'rgb(221,221,221)'};
function draw(onPaper) {
  for (const figure of document.querySelectorAll('.plotly-graph-div')) {
    let text = figure.nextElementSibling.textContent;
    if (dark.matches && !onPaper)
      text = text.replace(/#222222|#000000|#eeeeee|rgb\\(36,36,36\\)/g, color => night[color]);
    const {data, layout} = JSON.parse(text);
    if (onPaper) layout.width = 660;
    Plotly.react(figure, data, layout, {displayModeBar: false, responsive: !onPaper});
  }
}
async function start() {
  if (typeof plotly === 'undefined') throw 'lost';
  const packed = Uint8Array.from(atob(plotly), letter => letter.charCodeAt(0));
  const whole = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  const script = document.createElement('script');
  script.textContent = await new Response(whole).text();
  document.head.append(script);
  draw(false);
  dark.addEventListener('change', () => draw(false));
  window.addEventListener('beforeprint', () => draw(true));
  window.addEventListener('afterprint', () => draw(false));
}
start().catch(reason => { for (const figure of document.querySelectorAll('.plotly-graph-div'))
  figure.textContent = reason === 'lost'
    ? 'The figures need plotting.js of the folder of the comparison: airtune report RUN makes a ' +
      'page that needs no other file.'
    : 'The figures need a browser of 2023 or later.'; });
"""


def sentences(told: Sequence[str]) -> str:
    """A list of sentences."""
    return f'<ul class="said">{"".join(f"<li>{escape(text)}</li>" for text in told)}</ul>'


def notices(told: Sequence[str]) -> str:
    """Notices beside the result; empty without any."""
    return section("Notices", sentences(told)) if told else ""


def note(text: str) -> str:
    """A sentence that must not be overlooked; nothing for no text."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def section(title: str, body: str) -> str:
    """A heading and what is under it; nothing for nothing."""
    anchor = title.lower().replace(" ", "-")
    return f'<h2 id="{anchor}">{escape(title)}</h2>{body}' if body else ""


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    keys: int = 1,
    left: Sequence[int] = (),
    cell: Callable[[str], str] = escape,
) -> str:
    """A table whose first `keys` columns name its rows.

    Numbers are flush right: all other columns but those in `left`. `cell` makes HTML of a text.
    """
    kinds = [' class="number"' * (k >= keys and k not in left) for k in range(len(headings))]
    head = "".join(
        f"<th{kind}>{escape(text)}</th>" for kind, text in zip(kinds, headings, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<th>{escape(text)}</th>" for text in row[:keys])
        + "".join(
            f"<td{kind}>{cell(text)}</td>"
            for kind, text in zip(kinds[keys:], row[keys:], strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


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
    """The figure's place, and what is drawn there as JSON."""
    content = panel.figure.to_json().replace("</", "<\\/")
    height = panel.figure.layout.height
    return (
        f'<div id="{name}" class="plotly-graph-div" style="min-height:{height}px"></div>'
        f'<script type="application/json">{content}</script>'
    )


SCRIPT = "plotting.js"
"""The plotting script as a file of its own, which the pages of a folder share."""


@cache
def script() -> str:
    """plotly.js 4.1.1, its cartesian charts alone: base64 of its gzip, as a constant.

    `scripts/plotting_script.py` makes the packed file.
    """
    packed = files("airtune.report").joinpath("plotting.js.gz").read_bytes()
    return f'const plotly = "{b64encode(packed).decode()}";'


def _inside() -> str:
    return f"<script>{script()}</script>"


def page(title: str, body: str, beside: str = "") -> str:
    """The whole document, with the plotting script inside, or in a file `beside` it."""
    plotting = f'<script src="{escape(beside)}"></script>' if beside else _inside()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>{plotting}</head>"
        f"<body><h1>{escape(title)}</h1>{body}<script>{_DRAW}</script></body></html>\n"
    )


def sharing(text: str, beside: str) -> str:
    """A page of this version with the script beside it in place of the one inside."""
    return text.replace(_inside(), f'<script src="{escape(beside)}"></script>', 1)
