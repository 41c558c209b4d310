"""Examples of a task, and how a generated answer is scored against them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from airtune.data.template import Turn


@dataclass(frozen=True)
class Slot:
    """One thing that a description must say.

    Any of the `accepted` wordings realises it, unless one of the `refused` wordings, which say the
    opposite, is there too ("not family friendly" holds "family friendly").
    """

    name: str
    value: str
    accepted: tuple[str, ...]
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """What the model is shown, what it must write, and the class by which clients may differ.

    `slots` is empty except in slot tasks; `columns` keeps the source's other columns, by which
    clients may be grouped. `turns` is a whole conversation, of which prompt and completion are then
    the last exchange; empty where there is no more than that exchange.
    """

    prompt: str
    completion: str
    label: str
    slots: tuple[Slot, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()


_FINAL_NUMBER = re.compile(r"####\s*(?:[$€£]\s*)?([-+−]?\s*(?:[$€£]\s*)?[\d,]*\.?\d+)")


def final_number(text: str) -> Decimal | None:
    """The number after the first `####`, or None where there is none.

    Thousands commas, a sign, decimals and a currency sign are understood: `#### -$1,250.50`.
    """
    found = _FINAL_NUMBER.search(text)
    if found is None:
        return None
    digits = re.sub(r"[\s,$€£]", "", found[1]).replace("−", "-")
    try:
        return Decimal(digits)
    except InvalidOperation:
        return None


def number_matches(example: Example, generated: str) -> float:
    """1 if the generated final number equals the example's as a number (`72` is `72.0`), else 0."""
    wanted = final_number(example.completion)
    return float(wanted is not None and final_number(generated) == wanted)


def label_matches(example: Example, generated: str) -> float:
    """1 if the first line written is the right class name, whatever its case and end, else 0."""
    lines = generated.strip().splitlines()
    return float(bool(lines) and _plain(lines[0]) == _plain(example.completion))


def slots_realised(example: Example, generated: str) -> float:
    """The share of the example's slots that the text says; 1 where there are none to say."""
    text = _plain(generated)
    said = [
        any(_plain(words) in text for words in slot.accepted)
        and not any(_plain(words) in text for words in slot.refused)
        for slot in example.slots
    ]
    return sum(said) / len(said) if said else 1.0


_GLUED = re.compile(r"\s*(-)\s*|(£)\s+|\s+([.,!?'])")


def _plain(text: str) -> str:
    """Lower case and single spaces; tokenised text ("family - friendly .") as it is written."""
    text = _GLUED.sub(r"\1\2\3", re.sub(r"\s+", " ", text.casefold()))
    return text.strip().rstrip(".")


@dataclass(frozen=True)
class Score:
    """How answers of a task are judged beside their loss: a name for people, and the judge."""

    name: str
    of: Callable[[Example, str], float]


FINAL_NUMBER = Score("final number right", number_matches)
LABEL_ACCURACY = Score("label accuracy", label_matches)
SLOTS_REALISED = Score("share of slots realised", slots_realised)


def mean_score(score: Score, examples: Sequence[Example], generated: Iterable[str]) -> float:
    """The mean over examples, each with its generated answer, in [0, 1]."""
    marks = [score.of(example, text) for example, text in zip(examples, generated, strict=True)]
    return sum(marks) / len(marks) if marks else 0.0
