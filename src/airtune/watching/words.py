"""The state of a run in words, for the page and for the terminal."""

from collections.abc import Sequence
from itertools import pairwise
from shlex import quote

from airtune.quantities import format_duration, format_quantity
from airtune.watching.state import ENDED, RUNNING, RunsState, RunState

HEADINGS = ("run", "state", "rounds", "loss [nat]", "time", "sent up", "energy")
_BARS = "▁▂▃▄▅▆▇█"


def run_sentence(run: RunState) -> str:
    """One sentence: how far, how long it may take, or that and why it has ended."""
    rounds = f"{run.done} of {run.rounds} rounds"
    if run.state == ENDED:
        return f"The run has ended after {rounds}" + (f": {run.reason}." if run.reason else ".")
    if run.state != RUNNING:
        return (
            f"{rounds[0].upper()}{rounds[1:]} are done, and no process works on the run: "
            f"`airtune resume {quote(str(run.folder))}` goes on with it."
        )
    if run.done >= run.rounds:
        return f"All {run.rounds} rounds are done; the results are being written."
    left = "" if run.real_left_s is None else f"; about {format_duration(run.real_left_s)} left"
    if run.virtual_left_s is not None:
        left += f", {format_duration(run.virtual_left_s)} of virtual time"
    return f"Running: {rounds}{left}."


def runs_sentence(runs: RunsState) -> str:
    """The same of a comparison or a sweep."""
    of = "" if runs.planned is None else f" of {runs.planned}"
    going = sum(run.state == RUNNING for run in runs.runs)
    told = f"{runs.ended}{of} runs have ended"
    if runs.working:
        return f"The {runs.kind} is running: {told}, {going} are running."
    if not runs.finished:
        return f"No process works on the {runs.kind}: {told}; its command goes on with it."
    return f"The {runs.kind} has ended: {told}."


def has_stopped(state: RunState | RunsState) -> bool:
    """Whether nothing will change until the next command."""
    return state.state != RUNNING if isinstance(state, RunState) else not state.working


def rows_of(runs: Sequence[RunState]) -> list[list[str]]:
    """A row a run, under HEADINGS."""
    return [_row(run) for run in runs]


def _row(run: RunState) -> list[str]:
    head = [run.name, run.state, f"{run.done}/{run.rounds}"]
    if not run.records:
        return [*head, *["-"] * (len(HEADINGS) - 3)]
    last = run.records[-1]
    return [
        *head,
        f"{last.test_loss:.4f}",
        format_duration(last.virtual_time_s),
        format_quantity(sum(record.uplink_bits for record in run.records) / 8, "B"),
        format_quantity(sum(record.energy_j for record in run.records), "J"),
    ]


def sparkline(values: Sequence[float], width: int) -> str:
    """Values as bars of eight heights, the least to the greatest; means where there are more
    values than columns.

    >>> sparkline([1, 2, 3], 10), sparkline([5, 5], 10), sparkline([], 10)
    ('▁▅█', '▁▁', '')
    """
    if not values:
        return ""
    count = min(width, len(values))
    ends = [round(place * len(values) / count) for place in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(ends)]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[int(scale * (mean - low) + 0.5)] for mean in means)
