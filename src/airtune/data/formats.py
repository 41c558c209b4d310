"""The formats of data sets: which columns mark one, and how a row becomes an example."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from airtune.data.cells import Json, Row, RowError
from airtune.data.instructions import alpaca_example, dolly_example, text_example
from airtune.data.tasks import (
    FINAL_NUMBER,
    LABEL_ACCURACY,
    SLOTS_REALISED,
    Example,
    Score,
    Slot,
    final_number,
)
from airtune.data.turns import COLUMNS, chat_example, exchange_example
from airtune.errors import InputError
from airtune.suggest import suggest

YAHOO_CLASSES = (
    "Society & Culture",
    "Science & Mathematics",
    "Health",
    "Education & Reference",
    "Computers & Internet",
    "Sports",
    "Business & Finance",
    "Entertainment & Music",
    "Family & Relationships",
    "Politics & Government",
)
"""The topics of Yahoo! Answers (Zhang, Zhao and LeCun 2015, arXiv 1509.01626), class 1 first."""

YAHOO_COLUMNS = ("class", "title", "content", "best_answer")


@dataclass(frozen=True)
class Format:
    """How rows of one kind of data set are recognised, read and scored.

    `columns` are the columns that a row needs; `separator` stands between a prompt and its
    completion where the tokenizer has no chat template.
    """

    name: str
    columns: tuple[str, ...]
    example: Callable[[Row], Example]
    score: Score | None
    separator: str = "\n"


def gsm8k_example(row: Row) -> Example:
    """A word problem; the label is the number of answer lines before `####`, from 1 to 8."""
    answer = row["answer"].strip()
    if "####" not in answer:
        raise RowError("answer", answer, "a worked answer that ends in `#### n`")
    lines = [line for line in answer.split("####")[0].splitlines() if line.strip()]
    if final_number(answer) is None:
        raise RowError("answer", answer, "a worked answer with a number after its first `####`")
    return Example(row["question"].strip(), answer, str(min(8, max(1, len(lines)))))


_E2E_SLOT = re.compile(r"([^\[\],]+)\[([^\]]*)\]\s*(?:,\s*|$)")
_FAMILY_YES = ("family friendly", "family-friendly", "families", "kid", "child", "all ages")
_FAMILY_NO = (
    "not family", "non family", "non-family", "isn't family", "not a family", "not kid",
    "not child", "not for famil", "not for kid", "not for child", "no famil", "no kid", "no child",
    "adult", "not suitable", "not recommended", "not good for", "not appropriate", "not allow",
    "not welcome",
)  # fmt: skip
_E2E_WORDS = {
    "cheap": ("cheap", "low price", "low-price", "inexpensive", "low cost", "affordable"),
    "moderate": (
        "moderate",
        "average price",
        "average-price",
        "mid-price",
        "reasonabl",
        "mid-range",
    ),
    "high": ("high", "expensive", "pricey", "costly", "excellent", "great"),
    "low": ("low", "poor", "bad", "1 out of 5", "one star"),
    "average": ("average", "moderate", "mediocre", "3 out of 5", "three star"),
    "1 out of 5": ("1 out of 5", "one out of five", "1 star", "one star", "1-star", "1/5", "low"),
    "3 out of 5": ("3 out of 5", "three out of five", "3 star", "three star", "3-star", "3/5"),
    "5 out of 5": ("5 out of 5", "five out of five", "5 star", "five star", "5-star", "5/5"),
}
"""Common wordings of E2E's closed values. A keyword list, so the share it gives is a lower bound
on what human raters would accept."""


def e2e_example(row: Row) -> Example:
    """An E2E NLG meaning representation and its reference; the label is the kind of food."""
    slots = _e2e_slots(row["mr"])
    if not slots:
        raise RowError("mr", row["mr"], "slots written as `name[value], …`")
    food = next((slot.value for slot in slots if slot.name == "food"), "none")
    return Example(row["mr"].strip(), row["ref"].strip(), food, tuple(slots))


def _e2e_slots(text: str) -> list[Slot]:
    """The slots of a meaning representation; none where any part of it is something else."""
    slots, at = [], 0
    while at < len(text):
        found = _E2E_SLOT.match(text, at)
        # An empty value is in every text.
        if found is None or not found[1].strip() or not found[2].strip():
            return []
        slots.append(_e2e_slot(found[1].strip(), found[2]))
        at = found.end()
    return slots


def _e2e_slot(name: str, value: str) -> Slot:
    value = value.strip()
    family = name.replace(" ", "").casefold() == "familyfriendly"
    if family and value == "yes":
        return Slot(name, value, _FAMILY_YES, _FAMILY_NO)
    if family and value == "no":
        return Slot(name, value, _FAMILY_NO)
    return Slot(name, value, (value, *_E2E_WORDS.get(value, ())))


def yahoo_example(row: Row) -> Example:
    """A question and its best answer; the completion is the name of the topic (class 1 to 10)."""
    texts = (row["title"], row["content"], row["best_answer"])
    return _topic_example(row["class"], 1, *texts)


def yahoo_topics_example(row: Row) -> Example:
    """The same in the hub's columns, where topics are counted from 0."""
    texts = (row["question_title"], row["question_content"], row["best_answer"])
    return _topic_example(row["topic"], 0, *texts)


def _topic_example(number: str, first: int, title: str, content: str, answer: str) -> Example:
    last = first + len(YAHOO_CLASSES) - 1
    if not number.strip().isdecimal() or not first <= int(number) <= last:
        column = "class" if first else "topic"
        raise RowError(column, number, f"a class number from {first} to {last}")
    # The answer comes first, because a prompt that is too long is cut from the left: the question
    # tells more about the topic. The original writes a line break in a cell as backslash and n.
    parts = [part.replace("\\n", "\n").strip() for part in (answer, title, content)]
    topic = YAHOO_CLASSES[int(number) - first]
    return Example("\n".join(part for part in parts if part), topic, topic)


FORMATS = {
    entry.name: entry
    for entry in (
        Format("gsm8k", ("question", "answer"), gsm8k_example, FINAL_NUMBER),
        Format("e2e", ("mr", "ref"), e2e_example, SLOTS_REALISED),
        Format("yahoo", YAHOO_COLUMNS, yahoo_example, LABEL_ACCURACY, "\nTopic: "),
        Format(
            "yahoo_topics",
            ("topic", "question_title", "question_content", "best_answer"),
            yahoo_topics_example,
            LABEL_ACCURACY,
            "\nTopic: ",
        ),
        Format("alpaca", ("instruction", "output"), alpaca_example, None, ""),
        Format("dolly", ("instruction", "response"), dolly_example, None, ""),
        Format("text", ("text",), text_example, None, ""),
    )
}
_WHOLE = ("text",)
"""Formats whose columns stand beside those of others (a rendered copy, an abstract): they are
detected only where nothing else is."""


def chat_format(columns: Iterable[str]) -> Format:
    """Conversations, in the column `messages`, `conversations` or `conversation` that there is."""
    found = {*columns}
    column = next((name for name in COLUMNS if name in found), "messages")
    return Format("chat", (column,), partial(chat_example, column), None)


def columns_format(prompt_column: str, completion_column: str) -> Format:
    """Any two columns; a column called `label` gives the label, else all rows are of one class.

    Both hold texts, or both lists of turns.
    """

    def example(row: Row) -> Example:
        if isinstance(row[prompt_column], Json) or isinstance(row[completion_column], Json):
            return exchange_example(prompt_column, completion_column, row)
        return Example(row[prompt_column], row[completion_column], row.get("label", ""))

    return Format("table", (prompt_column, completion_column), example, None)


def _shown(columns: Iterable[str]) -> str:
    """Names of columns, in quotes where blanks or the like would not be seen."""
    return ", ".join(
        name if name == name.strip() and name.isprintable() else repr(name) for name in columns
    )


def detect_format(columns: Iterable[str], source: str) -> Format:
    """The one format whose columns a source has.

    Raises InputError where none or several fit, naming the columns found.
    """
    found = list(columns)
    rendered = [FORMATS[name] for name in _WHOLE]
    tasks = [entry for entry in FORMATS.values() if entry not in rendered]
    # Later ranks only then: other formats may carry a conversation or a text beside what they need.
    ranks = [[*tasks, columns_format("prompt", "completion")], [chat_format(found)], rendered]
    candidates = [entry for rank in ranks for entry in rank]
    fitting: list[Format] = []
    for rank in ranks:
        fitting = fitting or [entry for entry in rank if set(entry.columns) <= set(found)]
    if len(fitting) == 1:
        return fitting[0]
    names = [entry.name for entry in fitting or candidates]
    problem = "fit several formats" if fitting else "fit no known format"
    raise InputError(
        "data.format",
        "not given",
        f"one of {', '.join(names)} where the columns {problem}",
        f"the columns of {source} are {_shown(found)}: set data.format, or data.prompt_column and "
        "data.completion_column",
    )


def choose_format(
    name: str | None,
    columns: Iterable[str],
    source: str,
    prompt_column: str | None = None,
    completion_column: str | None = None,
) -> Format:
    """The named format, or the one that the columns fit.

    Raises InputError for an unknown name, for half a pair of columns and for missing columns.
    """
    found = list(columns)
    if (prompt_column is None) != (completion_column is None):
        missing = "prompt_column" if prompt_column is None else "completion_column"
        raise InputError(
            f"data.{missing}", None, "given together with its twin", "name both columns"
        )
    if prompt_column is not None and completion_column is not None:
        if name not in (None, "table"):
            raise InputError(
                "data.format", name, "`table` where columns are named", "drop one of the two"
            )
        chosen = columns_format(prompt_column, completion_column)
    elif name is None:
        return detect_format(found, source)
    elif name == "table":
        chosen = columns_format("prompt", "completion")
    elif name == "chat":
        chosen = chat_format(found)
    elif name in FORMATS:
        chosen = FORMATS[name]
    else:
        names = [*FORMATS, "table", "chat"]
        raise InputError("data.format", name, f"one of {', '.join(names)}", suggest(name, names))
    for column in chosen.columns:
        if column not in found:
            raise InputError(
                source,
                f"without a column {column!r}",
                f"a source with the columns {', '.join(chosen.columns)}",
                f"it has {_shown(found)}; check data.format, data.prompt_column and "
                "data.completion_column",
            )
    return chosen
