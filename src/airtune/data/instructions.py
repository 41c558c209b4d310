"""Instructions with an answer, and plain text: rows of Alpaca, of Dolly, and of one text each."""

from airtune.data.cells import Row, optional_text
from airtune.data.tasks import Example

_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:"
)


def alpaca_example(row: Row) -> Example:
    """An instruction, perhaps with an input, and its output; a column `label` gives the label.

    Without a chat template the prompt is the one that Stanford Alpaca was trained on, and the
    output follows it at once (`PROMPT_DICT` and `preprocess` in train.py of
    github.com/tatsu-lab/stanford_alpaca). With a chat template it is a user turn of the
    instruction, a blank line and the input: the template says what a prompt looks like, so a
    second frame in it would be unusual. An input of blanks alone is none.
    """
    return _instructed(row, "input", "output", row.get("label", ""))


def dolly_example(row: Row) -> Example:
    """An instruction, perhaps with a context, and its response, laid out as `alpaca_example` does.

    The label is the column `label`, else `category`.
    """
    label = row.get("label", row.get("category", ""))
    return _instructed(row, "context", "response", label)


def text_example(row: Row) -> Example:
    """A text, every token of which but the first is trained; a column `label` gives the label."""
    return Example("", row["text"], row.get("label", ""), whole=True)


def asked(format_name: str, prompt: str) -> Example:
    """A prompt of the user's own as an example of a format, of which the completion is to come."""
    if format_name == "text":
        return Example(prompt, "x", "", whole=True)
    framed = format_name in ("alpaca", "dolly")
    return Example(prompt, "x", "", plain=_framed(prompt, "") if framed else None)


def _instructed(row: Row, given: str, answer: str, label: str) -> Example:
    instruction, text = row["instruction"], optional_text(row, given)
    turn = f"{instruction}\n\n{text}" if text.strip() else instruction
    return Example(turn, row[answer], label, plain=_framed(instruction, text))


def _framed(instruction: str, text: str) -> str:
    frame = _WITH_INPUT if text.strip() else _WITHOUT_INPUT
    return frame.format(instruction=instruction, input=text)
