"""Texts and tokens: the plain form of a row, spans of tokens, a row in readable form."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airtune.data.template import NO_INPUTS, TemplateInputs
from airtune.errors import InputError
from airtune.foreign import foreign_code, foreign_input


@dataclass(frozen=True)
class PromptForm:
    """A row of tokens is `head + (prompt, separator) + completion + end`.

    `head` and `end` are token ids and always stay whole; where a row is too long, only tokens of
    the prompt are cut, from the left. `separator` is text and is tokenised together with the
    prompt.
    """

    head: tuple[int, ...]
    separator: str
    end: tuple[int, ...]


def plain_form(
    tokenizer: Any, separator: str = "\n", inputs: TemplateInputs = NO_INPUTS
) -> PromptForm:
    """The form of a tokenizer without a chat template.

    What the tokenizer itself puts first, prompt, separator, completion, end of sequence. Raises
    InputError for inputs that only a chat template could read.
    """
    keys = {"system": "data.system", "tools": "data.tools", "values": "data.template_inputs",
            "date": "data.date"}  # fmt: skip
    for entry in fields(inputs):
        if getattr(inputs, entry.name):
            raise InputError(
                keys[entry.name], "given", "left out where the tokenizer has no chat template",
                "name a template in data.chat_template, or remove the key",
            )  # fmt: skip
    bare, full = token_ids(tokenizer, ["a"])[0], tokenizer("a")["input_ids"]
    starts = [at for at in range(len(full)) if full[at : at + len(bare)] == bare]
    head = full[: starts[0]] if starts else []
    return PromptForm(tuple(head), separator, _end_of_sequence(tokenizer))


def token_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The tokens of each text alone, without any that the tokenizer would add around them."""
    with foreign_code("the tokenizer"):
        ids: list[list[int]] = tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
    return ids


Spans = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]


def token_spans(tokenizer: Any, texts: list[str]) -> Iterator[Spans]:
    """(ids, first characters, ends) [token] of each text, which its tokens cover without gaps.

    Where a tokenizer leaves characters out (blanks before a word), they belong to the token after
    them. Tokens that share one character each have all of it.
    """
    if not texts:
        return
    with foreign_input(
        "model", "one whose tokenizer gives no offsets",
        "one with a fast tokenizer (tokenizer.json) where a chat template is used",
    ):  # fmt: skip
        found = tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False,
            return_offsets_mapping=True,
        )  # fmt: skip
        pairs = list(zip(found["input_ids"], found["offset_mapping"], strict=True))
    for ids, offsets in pairs:
        table = np.array(offsets, dtype=np.int64).reshape(-1, 2)
        ends = np.maximum.accumulate(table[:, 1])
        before = np.concatenate([[0], ends[:-1]])[: len(ends)]
        yield np.array(ids, dtype=np.int32), np.minimum(table[:, 0], before), ends


def _end_of_sequence(tokenizer: Any) -> tuple[int, ...]:
    return () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)


def show_prompt(tokenizer: Any, ids: Sequence[int], label: Sequence[bool]) -> str:
    """One row in readable form: the prompt, and after each `⟹` what the model must write.

    `⟸` marks the return to given text. Special tokens are visible, since they are part
    of the model's input.
    """
    shown, at = "", 0
    for wanted, run in groupby(label):
        size = len(list(run))
        shown += ("⟹" if wanted else "⟸" if at else "") + tokenizer.decode(ids[at : at + size])
        at += size
    return shown
