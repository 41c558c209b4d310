"""The live page: the report of a run so far, or the runs of a comparison or a sweep as a table.

A script in it asks every few seconds whether there is more, and puts the new content in place of
the old one.
"""

from html import escape
from pathlib import Path

from airtune.errors import AirtuneError
from airtune.experiment.reopened import run_view
from airtune.report import html
from airtune.report.page import render
from airtune.watching.state import (
    RunsState,
    RunState,
    kind_of_folder,
    read_run_state,
    read_runs_state,
)
from airtune.watching.words import HEADINGS, has_stopped, rows_of, run_sentence, runs_sentence

ASKS_EVERY_S = 3
_LIVE = """<script>
let version = null;
async function look() {
  let found;
  try { found = await (await fetch('state.json', {cache: 'no-store'})).json(); }
  catch { return say('The watcher has ended; this is what it showed last.'); }
  say(found.sentence);
  if (found.version !== version && version !== null) await renew();
  version = found.version;
  setTimeout(look, found.ended ? 10 * PAUSE : PAUSE);
}
function say(text) { document.getElementById('live').textContent = text; }
async function renew() {
  const text = await (await fetch('.', {cache: 'no-store'})).text();
  const fresh = new DOMParser().parseFromString(text, 'text/html').getElementById('shown');
  const open = [...document.querySelectorAll('details')].map(entry => entry.open);
  document.getElementById('shown').replaceWith(fresh);
  [...document.querySelectorAll('details')].forEach((entry, k) => { entry.open = !!open[k]; });
  if (typeof Plotly !== 'undefined') draw(false);
}
look();
</script>""".replace("PAUSE", str(1000 * ASKS_EVERY_S))

State = RunState | RunsState


def read_state(folder: Path) -> State:
    """What a folder holds, as it is now. Raises AirtuneError for another folder."""
    return read_run_state(folder) if kind_of_folder(folder) == "run" else read_runs_state(folder)


def sentence_of(state: State) -> str:
    """How far it is."""
    return run_sentence(state) if isinstance(state, RunState) else runs_sentence(state)


def version_of(state: State) -> str:
    """Changes whenever the page would."""
    if isinstance(state, RunState):
        return f"{state.done}/{state.rounds} {state.state}"
    return " ".join([f"{state.solved} {state.working}", *map(version_of, state.runs)])


def state_json(state: State) -> dict[str, object]:
    """What the script asks for."""
    return {
        "version": version_of(state),
        "sentence": sentence_of(state),
        "ended": has_stopped(state),
    }


def live_page(state: State) -> str:
    """The whole page."""
    text = _report(state) if isinstance(state, RunState) else _runs_page(state)
    head, _, rest = text.partition("<body>")
    body, _, end = rest.rpartition("<script>")
    told = f'<p class="note" id="live">{escape(sentence_of(state))}</p>'
    return f'{head}<body>{told}<div id="shown">{body}</div><script>{end}'.replace(
        "</body>", f"{_LIVE}</body>", 1
    )


def _report(run: RunState) -> str:
    title = f"airtune: {run.method} on {run.model}"
    if not run.records:
        return html.page(title, "<p>No round has ended yet.</p>", html.SCRIPT)
    try:
        return html.sharing(render(run_view(run.folder)), html.SCRIPT)
    except AirtuneError as error:
        # Between two writes of the run, or damaged: the next request shows which.
        return html.page(title, html.note(str(error)), html.SCRIPT)


def _runs_page(runs: RunsState) -> str:
    head = "".join(
        f'<th class="{"number" if place > 1 else ""}">{escape(text)}</th>'
        for place, text in enumerate(HEADINGS)
    )
    rows = "".join(
        f"<tr><th>{escape(row[0])}</th><td>{escape(row[1])}</td>"
        + "".join(f'<td class="number">{escape(text)}</td>' for text in row[2:])
        + "</tr>"
        for row in rows_of(runs.runs)
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return html.page(f"airtune: {runs.kind} {runs.folder.name}", table, html.SCRIPT)
