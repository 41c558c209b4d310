"""The chat template of a tokenizer: which one, what it may read, what it renders."""

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from airtune.errors import InputError
from airtune.files import read_text
from airtune.foreign import foreign_input

Span = tuple[int, int]
"""Characters [start, end) of a rendered text."""
FIELD = "data.chat_template"
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_OWN_NAMES = ("messages", "tools", "add_generation_prompt", "strftime_now")


@dataclass(frozen=True)
class Turn:
    """One message of a conversation: the role (system, user, assistant, tool) and the text."""

    role: str
    content: str


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
                key, "given", "left out where the chat template does not read it",
                "remove it, or name another data.chat_template",
            )  # fmt: skip
        for name in self.inputs.values:
            if name in _OWN_NAMES or name not in self.variables:
                known = ", ".join(sorted(self.variables - {*_OWN_NAMES, *self._special}))
                raise InputError(
                    f"data.template_inputs.{name}", "given",
                    f"a variable that the chat template reads ({known or 'it reads none'})",
                )  # fmt: skip

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
            "documents": None, **self._special, **self.inputs.values,
            "messages": messages, "tools": [dict(tool) for tool in self.inputs.tools] or None,
            "add_generation_prompt": asks, "strftime_now": _clock(self.inputs.date),
        }  # fmt: skip
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
