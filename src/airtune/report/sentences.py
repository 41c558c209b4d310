"""The run in sentences, for the top of the page."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from airtune.config.experiment import CHARGED_AS
from airtune.quantities import format_duration, format_quantity
from airtune.report.alike import SAME
from airtune.report.decisions import constants
from airtune.report.labels import quantity
from airtune.report.latency import departure
from airtune.report.view import RunView, entries, idle_sentence
from airtune.report.waiting import ending_sentences, paced

COUNTS = ("ranks", "blocks", "count", "1")
"""Units that add nothing to the words before them."""


def run_sentences(view: RunView) -> list[str]:
    """What was learned, what it cost, who held it up, and what did not go as planned."""
    told = [*summary_sentences(view.summary), _plan(view), *_missing(view), _constant(view)]
    return [sentence for sentence in told if sentence]


def summary_sentences(summary: Mapping[str, Any]) -> list[str]:
    """The summary in words, the same in the terminal and on the page."""
    told = [_learned(summary), *_scores(summary), _cost(summary), *ending_sentences(summary)]
    told += [idle_sentence(summary)] if "idle_s" in summary else []
    if summary["stopped"]:
        told.append(f"It stopped early: {summary['stopped']}.")
    told += [summary["diverged"]] if "diverged" in summary else []
    return told


def unfinished(summary: Mapping[str, Any]) -> str:
    """What is there of a run that has not ended; nothing for one that has."""
    if "rounds_asked" not in summary:
        return ""
    return (
        f"This run is not finished: {summary['rounds']} of {summary['rounds_asked']} rounds are "
        "written, and the page shows those."
    )


def charged_as(charge_as: str | None, model: str) -> str:
    """The sentence that keeps a simulated workload apart from the learning."""
    if not charge_as:
        return ""
    # `${FOLDER}/a/model` came from the environment, and reads better without it.
    model = re.sub(r"^\$\{\w+\}/", "", model)
    return (
        f"Charged as {charge_as}: time, bits, energy and memory are those of training {charge_as}, "
        f"while the learning is that of {model}."
    )


def further(notices: Sequence[str]) -> list[str]:
    """The notices of a run that `charged_as`, above them, does not say already."""
    return [notice for notice in notices if not notice.startswith(CHARGED_AS)]


def _learned(summary: Mapping[str, Any]) -> str:
    start, final = summary["start_test_loss"], summary["final_test_loss"]
    if start is None:
        return f"The test loss is {final:.4f} nat after {summary['rounds']} rounds."
    change = (1.0 - final / start) * 100.0
    trained = f", {summary['trained']} trained" if "trained" in summary else ""
    return (
        f"The test loss {'fell' if change >= 0 else 'rose'} from {start:.4f} to {final:.4f} nat "
        f"({abs(change):.0f} % {'less' if change >= 0 else 'more'}) in {summary['rounds']} rounds "
        f"of {summary['method']}{trained}."
    )


def _cost(summary: Mapping[str, Any]) -> str:
    return (
        f"In this cell and on these devices that takes "
        f"{format_duration(summary['virtual_time_s'])}, "
        f"{format_quantity(summary['uplink_bits'] / 8, 'B')} up, "
        f"{format_quantity(summary['downlink_bits'] / 8, 'B')} down and "
        f"{format_quantity(summary['energy_j'], 'J')} of the clients' energy."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _scores(summary: Mapping[str, Any]) -> list[str]:
    return [
        f"{_capital(name)}: {100 * scores['before']:.0f} % before and "
        f"{100 * scores['after']:.0f} % after, on {scores['examples']} test examples."
        for name, scores in summary["scores"].items()
    ]


def _plan(view: RunView) -> str:
    worst = None if paced(view.records) else departure(view.records)
    if worst is None:
        return ""
    if worst <= SAME:
        return "Every round took as long as planned."
    return f"A round's charged latency was up to {worst:.1%} off the planned one."


def _missing(view: RunView) -> list[str]:
    """Clients that were late, silent or left out, if there were any."""
    if paced(view.records):
        return []  # said with what became of all tasks
    outcomes = Counter(entry.outcome for _, entry in entries(view.records))
    skipped = sum(len(record.skipped) for record in view.records)
    told = [
        f"{outcomes[kind]} {words}"
        for kind, words in (("late", "came too late"), ("silent", "fell silent"))
        if outcomes[kind]
    ]
    told += [f"{skipped} left out by the planner"] if skipped else []
    asked = sum(outcomes.values()) + skipped
    return [f"Of {asked} updates requested, {', '.join(told)}."] if told else []


def _constant(view: RunView) -> str:
    """Decisions that never varied have no figure, so they are stated here."""
    same = constants(view.records)
    if not same:
        return ""
    parts = []
    for key, value in same.items():
        what = quantity(key)
        unit = "" if what.unit in COUNTS else f" {what.shown.unit}"
        parts.append(f"{what.label} {value * what.shown.scale:.4g}{unit}")
    return f"The same for every client in every round: {', '.join(parts)}."
