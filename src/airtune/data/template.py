"""The chat template of a tokenizer, and the plain form of a row where there is none.

Which template it is, what it may read, what it renders; spans of tokens, and a row in readable
form.
"""

import datetime
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airtune.errors import InputError, foreign_code, foreign_input
from airtune.files import read_text

Span = tuple[int, int]
"""Characters [start, end) of a rendered text."""
FIELD = "data.chat_template"
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_OWN_NAMES = ("messages", "tools", "add_generation_prompt", "strftime_now")


@dataclass(frozen=True)
class Turn:
    """One message of a conversation: the role (system, user, assistant, tool) and the text.

    An answer that is `given` is shown and not trained.
    """

    role: str
    content: str
    given: bool = False


@dataclass(frozen=True)
class TemplateInputs:
    """What a chat template may read beside the turns: keys of an experiment's `data` section.

    `template` is the name of one of the tokenizer's templates, or a file; `system` the text of a
    system turn put in front of conversations that have none; `tools` JSON schemas; `values` other
    variables (`enable_thinking`); `date` the day that `strftime_now` gives.
    """

    template: str | None = None
    system: str | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    date: str | None = None


NO_INPUTS = TemplateInputs()


def template_text(tokenizer: Any, inputs: TemplateInputs = NO_INPUTS) -> str | None:
    """The chat template in force, None where the tokenizer has none and no file is named.

    Raises InputError for a name that is neither one of the tokenizer's templates nor a file.
    """
    own = getattr(tokenizer, "chat_template", None)
    named = own if isinstance(own, Mapping) else {}
    if inputs.template is not None and inputs.template not in named:
        return read_text(Path(inputs.template).expanduser(), FIELD)
    if not own:
        return None
    tools = list(inputs.tools) or None
    allowed = f"the name of one of the tokenizer's templates ({', '.join(named)}) or a file"
    with foreign_input(FIELD, "not given", allowed):
        return str(tokenizer.get_chat_template(inputs.template, tools))


def reads_date(text: str | None) -> bool:
    """Whether a template shows the day on which it is rendered."""
    return text is not None and "strftime_now" in text


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation, and the spans that the template itself marks as generated."""

    text: str
    generated: tuple[Span, ...] = ()


class ChatTemplate:
    """A template with its inputs, rendered as `apply_chat_template` of transformers renders it.

    The one difference: `strftime_now` gives the day of the inputs, never the clock's.
    Raises InputError for inputs that the template does not read.
    """

    def __init__(self, tokenizer: Any, text: str, inputs: TemplateInputs) -> None:
        self.text, self.inputs = text, inputs
        self.marked = _GENERATION.search(text) is not None
        self._special = dict(tokenizer.special_tokens_map)
        self._check_inputs()

    @cached_property
    def _compiled(self) -> Any:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        with foreign_input(FIELD, "not a template that compiles", "a Jinja template"):
            return _compile_jinja_template(self.text)

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names that the template reads from outside."""
        from jinja2 import meta

        return frozenset(
            meta.find_undeclared_variables(self._compiled.environment.parse(self.text))
        )

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.inputs.template or "the tokenizer's"

    def _check_inputs(self) -> None:
        ignored = {
            "data.tools": bool(self.inputs.tools) and "tools" not in self.variables,
            "data.date": self.inputs.date is not None and not reads_date(self.text),
        }
        for key in (key for key, is_ignored in ignored.items() if is_ignored):
            raise InputError(
                key,
                "given",
                "left out where the chat template does not read it",
                "remove it, or name another data.chat_template",
            )
        for name in self.inputs.values:
            if name in _OWN_NAMES or name not in self.variables:
                known = ", ".join(sorted(self.variables - {*_OWN_NAMES, *self._special}))
                raise InputError(
                    f"data.template_inputs.{name}",
                    "given",
                    f"a variable that the chat template reads ({known or 'it reads none'})",
                )

    def render(self, turns: Sequence[Turn], *, asks: bool = False, parts: bool = False) -> Rendered:
        """The text of a conversation; with `asks`, of a prompt for the next answer.

        `parts` hands contents over as lists of typed parts, as templates of multimodal models
        require them. Exceptions of the template pass through.
        """
        messages = [
            {
                "role": turn.role,
                "content": [{"type": "text", "text": turn.content}] if parts else turn.content,
            }
            for turn in turns
        ]
        values = {
            "documents": None,
            **self._special,
            **self.inputs.values,
            "messages": messages,
            "tools": [dict(tool) for tool in self.inputs.tools] or None,
            "add_generation_prompt": asks,
            "strftime_now": _clock(self.inputs.date),
        }
        if asks or not self.marked:
            return Rendered(self._compiled.render(**values))
        return self._render_marked(values)

    def _render_marked(self, values: Mapping[str, Any]) -> Rendered:
        from transformers.utils.chat_template_utils import _render_with_assistant_indices

        text, spans = _render_with_assistant_indices(compiled_template=self._compiled, **values)
        return Rendered(text, tuple((int(start), int(end)) for start, end in spans if end > start))


def _clock(date: str | None) -> Callable[[str], str]:
    day = datetime.date.fromisoformat(date) if date else datetime.date.today()
    moment = datetime.datetime.combine(day, datetime.time())
    return moment.strftime


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
    keys = {
        "system": "data.system",
        "tools": "data.tools",
        "values": "data.template_inputs",
        "date": "data.date",
    }
    for entry in fields(inputs):
        if getattr(inputs, entry.name):
            raise InputError(
                keys[entry.name],
                "given",
                "left out where the tokenizer has no chat template",
                "name a template in data.chat_template, or remove the key",
            )
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
        "model",
        "one whose tokenizer gives no offsets",
        "one with a fast tokenizer (tokenizer.json) where a chat template is used",
    ):
        found = tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            verbose=False,
            return_offsets_mapping=True,
        )
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
