"""Advice as text for a terminal, at most 80 columns where nothing longer is asked for."""

from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap

from airtune.advising.answer import Advice, MethodAdvice, Spread, Suggestion
from airtune.cli.text import page_width, prose, text_table
from airtune.quantities import format_duration, format_quantity

WIDTH = 80
_AMOUNTS = ("sent up", "sent down", "energy")
_MOST = 3
"""Stages, and clients, that a sentence names."""


def text_of(advice: Advice) -> str:
    """Everything a reader needs, in the order of the questions."""
    width = page_width() or WIDTH
    blocks = [
        *(prose(f"Note: {sentence}", width) for sentence in advice.notices),
        prose(_head(advice), width),
        *_tables(advice, width),
        *_refused(advice, width),
        *_bindings(advice, width),
        *_notes(advice, width),
        *_suggestions(advice, width),
        *_left_out(advice, width),
    ]
    return "\n\n".join(block for block in blocks if block)


def _head(advice: Advice) -> str:
    charged = advice.charged_model
    model = charged if charged == advice.model else f"{charged} (in place of {advice.model})"
    by = "" if advice.deadline_s is None else f" Deadline: {format_duration(advice.deadline_s)}."
    clients = "1 client" if advice.clients == 1 else f"{advice.clients} clients"
    return (
        f"{model}, {clients}: means and percentiles over {advice.drawn}. Bytes and energy are "
        f"those of all clients, memory is that of the client with the least room.{by}"
    )


def _feasible(advice: Advice) -> list[MethodAdvice]:
    return [entry for entry in advice.methods if entry.feasible]


def _tables(advice: Advice, width: int) -> Iterator[str]:
    entries = _feasible(advice)
    if not entries:
        return
    rows = [_round_row(entry) for entry in entries]
    yield "A round\n" + text_table(
        ("method", "latency", "10 %", "90 %", "sent up", "sent down", "energy", "memory"),
        rows,
        width=width,
    )
    yield "The whole job\n" + text_table(
        ("method", "rounds", "time", "10 %", "90 %", *_deadline_heads(advice), *_AMOUNTS),
        [_job_row(entry, advice.deadline_s) for entry in entries],
        width=width,
    )
    sources = {entry.name: entry.job.rounds_source for entry in entries if entry.job}
    if len(set(sources.values())) == 1:
        yield prose(f"Rounds: {next(iter(sources.values()))}.", width)
    else:
        named = "; ".join(f"{name}: {source}" for name, source in sources.items())
        yield prose(f"Rounds: {named}.", width)


def _deadline_heads(advice: Advice) -> tuple[str, ...]:
    return () if advice.deadline_s is None else ("in time", "rounds that fit")


def _round_row(entry: MethodAdvice) -> list[str]:
    memory, cost = entry.memory, entry.round
    used = "-" if memory is None else format_quantity(memory.needed_bytes, "B")
    return [entry.name, *_times(cost["latency_s"]), *_amounts(cost), used]


def _job_row(entry: MethodAdvice, deadline_s: float | None) -> list[str]:
    job = entry.job
    assert job is not None
    cells = [entry.name, f"{job.rounds:,}", *_times(job.totals["latency_s"])]
    if deadline_s is not None:
        cells += ["yes" if job.in_time else "no", f"{job.rounds_that_fit:,}"]
    return [*cells, *_amounts(job.totals)]


def _times(spread: Spread) -> list[str]:
    return [format_duration(seconds) for seconds in (spread.mean, spread.p10, spread.p90)]


def _amounts(cost: Mapping[str, Spread]) -> list[str]:
    """Means; their percentiles are in JSON and on the page."""
    kinds = (("uplink_bytes", "B"), ("downlink_bytes", "B"), ("energy_j", "J"))
    return [format_quantity(cost[key].mean, unit) for key, unit in kinds]


def _refused(advice: Advice, width: int) -> Iterator[str]:
    """Methods with the same reason together."""
    names: dict[str, list[str]] = {}
    for entry in advice.methods:
        if not entry.feasible:
            names.setdefault(entry.reason, []).append(entry.name)
    lines = [prose(f"{', '.join(own)}: {reason}", width) for reason, own in names.items()]
    if lines:
        yield "\n".join(["Not feasible", *lines])


def _bindings(advice: Advice, width: int) -> Iterator[str]:
    lines = [prose(f"{entry.name}: {binding_words(entry)}.", width) for entry in _feasible(advice)]
    if lines:
        yield "\n".join(["What a round waits for", *lines])


def binding_words(entry: MethodAdvice) -> str:
    """The straggler's stages and who it is, as shares."""
    binds = entry.binds
    assert binds is not None
    stages = ", ".join(f"{name} {share:.0%}" for name, share in _first(binds.stages))
    words = f"{stages} of the latency"
    devices = ", ".join(f"{name} in {share:.0%}" for name, share in _first(binds.devices))
    if devices:
        words += f"; the last client is a {devices} of the rounds"
    if entry.idle_share:
        words += f"; no client takes part in {entry.idle_share:.0%} of the rounds"
    return words


def _first(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name, share) for name, share in shares.items() if share >= 0.005][:_MOST]


def _notes(advice: Advice, width: int) -> Iterator[str]:
    notes = dict.fromkeys(note for entry in advice.methods for note in entry.notes)
    yield "\n".join(prose(f"Note: {note}", width) for note in notes)


def _suggestions(advice: Advice, width: int) -> Iterator[str]:
    for name in dict.fromkeys(one.name for one in advice.suggestions):
        own = [one for one in advice.suggestions if one.name == name]
        lines = [line for k, one in enumerate(own) for line in _suggested(k + 1, one, width)]
        yield "\n".join([f"What would help {name}, most first", *lines])


def _suggested(number: int, one: Suggestion, width: int) -> list[str]:
    text = f"{one.what}: {format_duration(one.latency_s.mean)} a round"
    if one.latency_change is not None:
        text += f" ({one.latency_change:+.1%})"
    text += f", {format_duration(one.total_s)} in all"
    if one.total_change_s is not None:
        text += f", {format_duration(-one.total_change_s)} less"
    if one.in_time is not None:
        text += ", in time" if one.in_time else ", still late"
    text += f"; {one.note}" if one.note else ""
    return [*_indented(f"{number:>2}  ", text, width), f"    {one.command}"]


def _indented(head: str, text: str, width: int) -> list[str]:
    blank = " " * len(head)
    return wrap(head + text, width, subsequent_indent=blank, break_long_words=False)


def _left_out(advice: Advice, width: int) -> Iterator[str]:
    names = list(dict.fromkeys(one.name for one in advice.left_out))
    for name in names:
        lines: Sequence[str] = [
            line
            for one in advice.left_out
            if one.name == name
            for line in _indented("  ", f"{one.what}: {one.reason}", width)
        ]
        yield "\n".join([f"What would not help {name}", *lines])
