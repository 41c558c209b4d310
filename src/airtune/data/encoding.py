"""Examples as token ids: what a model reads, and what of it it is trained to write."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airtune.data.conversation import ChatForm, Laid, chat_form
from airtune.data.tasks import Example
from airtune.data.template import (
    NO_INPUTS,
    ChatTemplate,
    PromptForm,
    TemplateInputs,
    Turn,
    plain_form,
    show_prompt,
    template_text,
    token_ids,
    token_spans,
)
from airtune.errors import InputError

_CHUNK = 4096


@dataclass(frozen=True)
class Encoded:
    """Tokenised rows, one after another in one array.

    `token_ids` [token] int32; row k is `token_ids[starts[k]:starts[k + 1]]`, and `label` [token]
    is True at the tokens that the model must write, never at a row's first. The model answers a
    row from its first `prompt_length[k]` tokens, which may end in labels that a chat template puts
    before every answer. `example` [row] is the index of the example that row k was made from; rows
    that were dropped have none. Of the `cut` rows, `cut_texts` are whole texts, which lose their
    end.
    """

    token_ids: NDArray[np.int32]
    label: NDArray[np.bool_]
    starts: NDArray[np.int64]
    prompt_length: NDArray[np.int32]
    example: NDArray[np.int64]
    cut: int
    empty: int
    too_long: int
    max_tokens: int
    cut_texts: int = 0

    def __len__(self) -> int:
        return len(self.prompt_length)

    @property
    def length(self) -> NDArray[np.int64]:
        """Tokens of each row [row]."""
        return np.diff(self.starts)

    @cached_property
    def label_tokens(self) -> NDArray[np.int64]:
        """Label tokens of each row [row], at least one."""
        return np.add.reduceat(self.label, self.starts[:-1], dtype=np.int64)

    def row(self, index: int) -> NDArray[np.int32]:
        """The token ids of one row [token]."""
        return self.token_ids[self.starts[index] : self.starts[index + 1]]

    def row_label(self, index: int) -> NDArray[np.bool_]:
        """Which tokens of one row the model must write [token]."""
        return self.label[self.starts[index] : self.starts[index + 1]]

    def prompt(self, index: int) -> NDArray[np.int32]:
        """The token ids of one row that the model answers from [token]."""
        return self.row(index)[: self.prompt_length[index]]

    @property
    def notice(self) -> str:
        """What was dropped and cut, as a sentence to print; empty where nothing was."""
        total, parts = len(self) + self.empty + self.too_long, []
        if self.empty:
            parts.append(f"{self.empty} of {total} rows dropped: no completion")
        if self.too_long:
            parts.append(
                f"{self.too_long} of {total} rows dropped: their completion leaves no room for a "
                f"prompt in {self.max_tokens} tokens"
            )
        if self.cut > self.cut_texts:
            parts.append(f"{self.cut - self.cut_texts} of {total} prompts cut from the left")
        if self.cut_texts:
            parts.append(f"{self.cut_texts} of {total} texts cut after {self.max_tokens} tokens")
        advice = " (raise data.max_tokens to keep more)" if self.too_long or self.cut else ""
        return f"{'; '.join(parts)}{advice}." if parts else ""


def encode(
    tokenizer: Any,
    examples: Sequence[Example],
    max_tokens: int,
    separator: str = "\n",
    inputs: TemplateInputs = NO_INPUTS,
) -> Encoded:
    """Tokenise examples with a Hugging Face tokenizer, at most `max_tokens` a row.

    With a chat template a row is the finished conversation as the template renders it, and all
    its answers are labels; without one it is prompt, separator, completion and the end of sequence.
    Whole texts are laid out by no template: all tokens but the first are labels, and one that is
    too long loses its end, as in TRL's `SFTTrainer`.
    Another row that is too long loses its oldest exchanges, then prompt tokens from the left,
    never a token of the last answer. A row is dropped, and counted, if its completion is empty, or
    so long that no prompt token would be left. Raises InputError if no row is left, and for a
    template that leaves open which tokens are the assistant's.
    """
    text = template_text(tokenizer, inputs)
    if any(example.whole for example in examples):
        _refuse_inputs(inputs)
        made = _text_rows(tokenizer, examples, max_tokens)
    elif text is None:
        made = _plain_rows(
            tokenizer, examples, max_tokens, plain_form(tokenizer, separator, inputs)
        )
    else:
        form = chat_form(ChatTemplate(tokenizer, text, inputs))
        made = _chat_rows(tokenizer, examples, max_tokens, form)
    rows = _Builder(max_tokens)
    for index, row in enumerate(made):
        rows.add(index, row)
    if not rows.rows:
        raise InputError(
            "data.max_tokens",
            max_tokens,
            "large enough for some row's completion and a prompt",
            f"all {len(examples)} rows were dropped",
        )
    return rows.encoded()


def turn_ends(tokenizer: Any, inputs: TemplateInputs = NO_INPUTS) -> tuple[int, ...]:
    """The token that ends an answer under a chat template; none where that is plain text."""
    text = template_text(tokenizer, inputs)
    end = "" if text is None else chat_form(ChatTemplate(tokenizer, text, inputs)).end.strip()
    ids = token_ids(tokenizer, [end])[0] if end else []
    return tuple(ids[:1]) if {*ids[:1]} & {*tokenizer.get_added_vocab().values()} else ()


@dataclass(frozen=True)
class _Row:
    """Tokens and labels of one row, of which [first, last) are the prompt's own and may be cut."""

    ids: NDArray[np.int32]
    label: NDArray[np.bool_]
    prompt_length: int
    first: int
    last: int
    shortened: bool = False
    cut_text: bool = False


def _plain_rows(
    tokenizer: Any, examples: Sequence[Example], max_tokens: int, form: PromptForm
) -> Iterator[_Row | None]:
    head, end = list(form.head), list(form.end)
    for start in range(0, len(examples), _CHUNK):
        chunk = examples[start : start + _CHUNK]
        _refuse_conversations(chunk)
        asked_for = [e.prompt if e.plain is None else e.plain for e in chunk]
        prompts = token_ids(tokenizer, [prompt + form.separator for prompt in asked_for])
        completions = token_ids(tokenizer, [example.completion for example in chunk])
        for prompt, completion in zip(prompts, completions, strict=True):
            asked = head + prompt
            if not completion or not asked:
                yield None
                continue
            ids = np.array(asked + completion + end, dtype=np.int32)
            label = np.arange(len(ids)) >= len(asked)
            yield _Row(ids, label, len(asked), len(head), len(asked))


def _text_rows(
    tokenizer: Any, examples: Sequence[Example], max_tokens: int
) -> Iterator[_Row | None]:
    """Whole texts between the tokenizer's first token and its end of sequence.

    Neither is repeated where a text has it already. A prompt of the user's own is cut from the
    left, so that its end is what goes on.
    """
    form = plain_form(tokenizer, "")
    for start in range(0, len(examples), _CHUNK):
        chunk = examples[start : start + _CHUNK]
        prompts = token_ids(tokenizer, [example.prompt for example in chunk])
        texts = token_ids(tokenizer, [example.completion for example in chunk])
        for prompt, text in zip(prompts, texts, strict=True):
            ids, head, end = prompt + text, list(form.head), list(form.end)
            head = [] if ids[: len(head)] == head else head
            end = [] if ids[-1:] == end else end
            whole = head + ids + end
            kept = whole if prompt else whole[:max_tokens]
            first, last = len(head), len(head) + len(prompt)
            label = np.arange(len(kept)) >= 1
            cut = len(kept) < len(whole)
            made = np.array(kept, dtype=np.int32)
            yield _Row(made, label, max(1, last), first, last, cut, cut) if text else None


def _refuse_inputs(inputs: TemplateInputs) -> None:
    """InputError for what only a chat template could read; the day may be one that was put in."""
    keys = {
        "data.chat_template": inputs.template,
        "data.system": inputs.system,
        "data.tools": inputs.tools,
        "data.template_inputs": inputs.values,
    }
    for key in (key for key, value in keys.items() if value):
        raise InputError(
            key,
            "given",
            "left out where data.format is text",
            "texts are trained as they are: remove the key, or name another data.format",
        )


def _refuse_conversations(examples: Sequence[Example]) -> None:
    if any(example.turns for example in examples):
        raise InputError(
            "model",
            "one whose tokenizer has no chat template",
            "one with a chat template where the data are conversations of several turns",
            "name a template in data.chat_template",
        )


def _chat_rows(
    tokenizer: Any, examples: Sequence[Example], max_tokens: int, form: ChatForm
) -> Iterator[_Row | None]:
    for start in range(0, len(examples), _CHUNK):
        part = examples[start : start + _CHUNK]
        chunk = [
            form.with_system(_turns(example)) if example.completion.strip() else None
            for example in part
        ]
        laid = [
            form.lay(turns, example.place)
            for turns, example in zip(chunk, part, strict=True)
            if turns is not None
        ]
        rows = iter(_tokenised(tokenizer, laid))
        for turns in chunk:
            yield (
                None if turns is None else _fitting(tokenizer, form, turns, next(rows), max_tokens)
            )


def _turns(example: Example) -> Sequence[Turn]:
    exchange = (Turn("user", example.prompt), Turn("assistant", example.completion))
    return example.turns or exchange


def _fitting(
    tokenizer: Any, form: ChatForm, turns: Sequence[Turn], row: _Row, max_tokens: int
) -> _Row:
    """The conversation without as many of its oldest exchanges as it takes to fit."""
    shortened = False
    while len(row.ids) > max_tokens and (fewer := _without_oldest(turns)):
        turns, shortened = fewer, True
        row = _tokenised(tokenizer, [form.lay(turns)])[0]
    return replace(row, shortened=shortened)


def _without_oldest(turns: Sequence[Turn]) -> list[Turn]:
    """The conversation from its second prompt on, system turn kept; empty if there is none."""
    asks = [k for k, turn in enumerate(turns) if turn.role == "user"]
    # Prompts in direct succession belong to one exchange.
    later = [k for k in asks[1:] if turns[k - 1].role != "user"]
    system = [turn for turn in turns[:1] if turn.role == "system"]
    return [*system, *turns[later[0] :]] if later else []


def _tokenised(tokenizer: Any, laid: Sequence[Laid]) -> list[_Row]:
    """Tokens of rendered texts, each labelled if any of its characters is."""
    rows = []
    for one, (ids, starts, ends) in zip(
        laid, token_spans(tokenizer, [one.text for one in laid]), strict=True
    ):
        label = np.zeros(len(ids), dtype=bool)
        for start, end in one.labels:
            label |= (starts < end) & (ends > start)
        label[:1] = False  # no token before it from which it could be written
        first = last = 0
        if one.prompt is not None:
            own = np.flatnonzero((starts >= one.prompt[0]) & (ends <= one.prompt[1]))
            first, last = (int(own[0]), int(own[-1]) + 1) if len(own) else (0, 0)
        rows.append(_Row(ids, label, int((ends <= one.answer).sum()), first, last))
    return rows


class _Builder:
    """Puts rows together within the limit, and counts those that do not fit."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.rows: list[_Row] = []
        self.example: list[int] = []
        self.cut = self.empty = self.too_long = self.cut_texts = 0

    def add(self, index: int, row: _Row | None) -> None:
        if row is None or not row.label.any() or row.prompt_length < 1:
            self.empty += 1
            return
        over = max(0, len(row.ids) - self.max_tokens)
        # At least one token of the prompt stays.
        if over and over >= row.last - row.first:
            self.too_long += 1
            return
        self.cut += bool(over) or row.shortened
        self.cut_texts += row.cut_text
        kept = np.ones(len(row.ids), dtype=bool)
        kept[row.first : row.first + over] = False
        self.rows.append(_Row(row.ids[kept], row.label[kept], row.prompt_length - over, 0, 0))
        self.example.append(index)

    def encoded(self) -> Encoded:
        starts = np.zeros(len(self.rows) + 1, dtype=np.int64)
        np.cumsum([len(row.ids) for row in self.rows], out=starts[1:])
        return Encoded(
            np.concatenate([row.ids for row in self.rows]),
            np.concatenate([row.label for row in self.rows]),
            starts,
            np.array([row.prompt_length for row in self.rows], dtype=np.int32),
            np.array(self.example, dtype=np.int64),
            self.cut,
            self.empty,
            self.too_long,
            self.max_tokens,
            self.cut_texts,
        )


def show_row(tokenizer: Any, encoded: Encoded, index: int) -> str:
    """One row in readable form, with special tokens, cuts and separator."""
    return show_prompt(tokenizer, encoded.row(index).tolist(), encoded.row_label(index).tolist())


def pad_token(tokenizer: Any) -> int:
    """The id that fills rows up: the tokenizer's own, else its end of sequence, else 0."""
    own, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    return int(own if own is not None else end if end is not None else 0)


def refuse_unknown_ids(tokenizer: Any, ids: Any, embeddings: int) -> None:
    """InputError if a row holds a token, or is padded with one, that the model has no row for."""
    for token in (int(ids.max()), pad_token(tokenizer)):
        if token >= embeddings:
            raise InputError(
                "model",
                f"one whose tokenizer gives the id {token} ({tokenizer.decode([token])!r})",
                f"one with ids below {embeddings}, the rows of its embedding",
                "resize the embedding to the tokenizer (resize_token_embeddings) and train the "
                "new rows, or take the added tokens out",
            )
