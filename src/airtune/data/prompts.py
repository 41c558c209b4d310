"""What stands around a prompt and a completion: the tokenizer's chat template, or a plain form."""

from dataclasses import dataclass
from typing import Any

from airtune.errors import InputError

_PROMPT_MARK, _COMPLETION_MARK = "AIRTUNE-PROMPT", "AIRTUNE-COMPLETION"


@dataclass(frozen=True)
class PromptForm:
    """A row of tokens is `head + (prompt, separator) + tail + completion + end`.

    `head`, `tail` and `end` are token ids and always stay whole; where a row is too long, only
    tokens of the prompt are cut, from the left. `separator` is text and is tokenised together with
    the prompt.
    """

    head: tuple[int, ...]
    separator: str
    tail: tuple[int, ...]
    end: tuple[int, ...]


def prompt_form(tokenizer: Any, separator: str = "\n") -> PromptForm:
    """The chat template of a Hugging Face tokenizer as a form, or the plain form if it has none.

    Plain: what the tokenizer itself puts first, prompt, separator, completion, end of sequence.
    Chat: the user's turn, the header of the assistant's turn, completion, and what the template
    puts after an answer (the end-of-sequence token where that is nothing).
    """
    if getattr(tokenizer, "chat_template", None):
        return _chat_form(tokenizer)
    bare, full = token_ids(tokenizer, ["a"])[0], tokenizer("a")["input_ids"]
    starts = [at for at in range(len(full)) if full[at : at + len(bare)] == bare]
    head = full[: starts[0]] if starts else []
    return PromptForm(tuple(head), separator, (), _end_of_sequence(tokenizer))


def token_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The tokens of each text alone, without any that the tokenizer would add around them."""
    ids: list[list[int]] = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, verbose=False
    )["input_ids"]
    return ids


def _end_of_sequence(tokenizer: Any) -> tuple[int, ...]:
    return () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)


def _chat_form(tokenizer: Any) -> PromptForm:
    user = {"role": "user", "content": _PROMPT_MARK}
    answer = {"role": "assistant", "content": _COMPLETION_MARK}
    asked = tokenizer.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
    answered = tokenizer.apply_chat_template([user, answer], tokenize=False)
    head, mark, tail = asked.partition(_PROMPT_MARK)
    _, answer_mark, end = answered.partition(_COMPLETION_MARK)
    if not mark or not answer_mark:
        raise InputError(
            "model", "a tokenizer whose chat template does not show the turns it is given",
            "one with a template for user and assistant turns", "remove its chat_template",
        )  # fmt: skip
    # A line break after the last turn would only teach the model to write it after it has ended.
    pieces = token_ids(tokenizer, [head, tail, end.rstrip()])
    return PromptForm(
        tuple(pieces[0]), "", tuple(pieces[1]), tuple(pieces[2]) or _end_of_sequence(tokenizer)
    )


def show_prompt(tokenizer: Any, ids: list[int], prompt_length: int) -> str:
    """One row for people: what the model is shown, and after `⟹` what it must write.

    Special tokens are visible, since they are part of what the model sees.
    """
    shown, wanted = (tokenizer.decode(part) for part in (ids[:prompt_length], ids[prompt_length:]))
    return f"{shown}⟹{wanted}"
