"""Examples of a task, and how a generated answer is scored against them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from airtune.data.template import Turn


@dataclass(frozen=True)
class Slot:
    """One slot that a description must realise.

    Any of the `accepted` wordings realises it, unless one of the `refused` wordings, which state
    the opposite, is there too ("not family friendly" holds "family friendly").
    """

    name: str
    value: str
    accepted: tuple[str, ...]
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """What the model is shown, what it must write, and the class by which clients may differ.

    `slots` is empty except in slot tasks; `columns` keeps the source's other columns, by which
    clients may be grouped; `place` names its row for messages. `turns` is a whole conversation, of
    which prompt and completion are then the last exchange; empty where there is no more than that
    exchange. `plain` is the prompt for a tokenizer without a chat template, where it is another.
    A `whole` text goes on from its prompt: no template lays it out, and all of it is trained.
    `client` holds the row, where its source is a file of that client.
    """

    prompt: str
    completion: str
    label: str
    slots: tuple[Slot, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()
    place: str = field(default="", compare=False)
    client: int | None = field(default=None, compare=False)
    plain: str | None = None
    whole: bool = False


_GAP = r"[^\S\r\n]*"
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
# Letters, but no raised, lowered or fractional digit.
_UNIT = r"[^\W\d_\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209f\u2150-\u218f]*"
_FINAL_NUMBER = re.compile(
    r"#{4,}\s*(?:[$€£]\s*)?(?P<sign>[-+−]?)\s*(?:[$€£]\s*)?"
    rf"(?:(?P<over>{_DIGITS}){_GAP}/{_GAP}(?P<under>\d+)"
    rf"|(?P<number>{_DIGITS})(?P<power>\.?[eE][-+−]?\d+)?)"
    # A unit may follow, but nothing that would make it another number: 10:30, 3-4, 1 000, 0x10.
    rf"(?:{_GAP}[%$€£]|{_UNIT})(?!\w)(?!{_GAP}[-+−/:*×xX÷^=]?{_GAP}\d)(?![.,:]\d)"
)


def final_number(text: str) -> Decimal | None:
    """The number after the first `####`, or None where there is none.

    Thousands commas, a sign, decimals, powers of ten, fractions, a currency sign and a unit after
    the number are understood: `#### -$1,250.50`, `1e3`, `1/2`, `50%` (as 50). What a number does
    not end is none: `10:30`, `3-4`, `1 000`, `1,00`.
    """
    found = _FINAL_NUMBER.match(text, max(0, text.find("####")))
    if found is None:
        return None
    sign = "-" if found["sign"] in ("-", "−") else ""
    digits, power = found["number"] or found["over"], (found["power"] or "").replace("−", "-")
    try:
        value = Decimal(sign + digits.replace(",", "") + power)
        return value / Decimal(found["under"]) if found["under"] else value
    except ArithmeticError:
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
    """The share of the example's slots that the text realises; 1 where there are none."""
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
    """How answers of a task are scored beside their loss: a readable name and the function."""

    name: str
    of: Callable[[Example, str], float]


FINAL_NUMBER = Score("final number right", number_matches)
LABEL_ACCURACY = Score("label accuracy", label_matches)
SLOTS_REALISED = Score("share of slots realised", slots_realised)


def mean_score(score: Score, examples: Sequence[Example], generated: Iterable[str]) -> float:
    """The mean over examples, each with its generated answer, in [0, 1]."""
    marks = [score.of(example, text) for example, text in zip(examples, generated, strict=True)]
    return sum(marks) / len(marks) if marks else 0.0
