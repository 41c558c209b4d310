"""Conversations as a chat template renders them, and which characters the model must write.

The template's rendering of the finished conversation decides: a row's tokens are those of the
whole text, and its labels are spans of it. A template that leaves it open which spans are the
assistant's is refused.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from airtune.data.template import FIELD, ChatTemplate, Rendered, Span, Turn
from airtune.errors import InputError, foreign_input, reason_of

_PROMPT, _ANSWER = "AIRTUNE-PROMPT", "AIRTUNE-COMPLETION"
_NEXT_PROMPT, _LAST_ANSWER = "AIRTUNE-FOLLOWING", "AIRTUNE-CLOSING"
_ALLOWED = "one that renders a user's and an assistant's turn"
_REMEDY = "change data.system, data.tools or data.template_inputs, or name another template"
_MARKS = "one whose finished turn shows where an answer starts and ends"
_MARK_THEM = (
    "set data.template_inputs (often enable_thinking: false), or name a template that puts "
    "{% generation %} around its answers"
)


@dataclass(frozen=True)
class Laid:
    """A rendered conversation with the places in it that matter, in characters.

    The model must write the `labels`. The last answer's own text starts at `answer`, after what
    the template puts before it (an empty think block). `prompt` is the text of the last prompt,
    from whose left tokens may be cut; None where it is not found as it was given.
    """

    text: str
    labels: tuple[Span, ...]
    answer: int
    prompt: Span | None


@dataclass(frozen=True)
class ChatForm:
    """How a template lays out one exchange, as rendering a known one shows.

    `bridge` stands between a prompt and its answer; `tail` is the part of it that a prompt for an
    answer has, too; `end` follows the last answer. With `parts`, contents are lists of typed parts.
    """

    template: ChatTemplate
    parts: bool
    bridge: str
    tail: str
    end: str

    def with_system(self, turns: Sequence[Turn]) -> list[Turn]:
        """The conversation, with the experiment's system turn where it has none of its own."""
        return _with_system(self.template, turns)

    def lay(self, turns: Sequence[Turn], place: str = "") -> Laid:
        """Render a conversation that ends in an answer, and find the places in it.

        Raises InputError, naming `place`, where the template fails on it, or leaves open what the
        answers are.
        """
        place = place or f"a conversation that begins {turns[0].content[:40]!r}"
        where = f"{self.template.name}, on {place}"
        with foreign_input(FIELD, where, _ALLOWED, _REMEDY):
            finished = self._rendered(turns)
            asked = self._rendered(turns[:-1], asks=True).text
        text = finished.text
        if self.template.marked:
            labels = self._trained(finished, turns, where)
        else:
            labels = self._answers(text, asked, turns, where)
        if not labels:
            raise InputError(FIELD, where, "one whose {% generation %} is around each answer")
        prompt = self._prompt(text, asked, turns[-2].content)
        return Laid(text, labels, self._answer(text, asked, turns[-1].content, prompt), prompt)

    def _rendered(self, turns: Sequence[Turn], *, asks: bool = False) -> Rendered:
        return self.template.render(turns, asks=asks, parts=self.parts)

    def _trained(self, finished: Rendered, turns: Sequence[Turn], where: str) -> tuple[Span, ...]:
        """The spans that the template marks, without those of given answers."""
        if not any(turn.given for turn in turns):
            return finished.generated
        text = finished.text
        first = next(k for k, t in enumerate(turns) if t.role == "assistant" and not t.given)
        with foreign_input(FIELD, where, _ALLOWED, _REMEDY):
            asked = self._rendered(turns[:first], asks=True).text
        start = _alike(text, asked)
        # They may part in what the template puts before an answer, not in what is given.
        if start < len(asked) - len(self.tail):
            raise _unlike(where, text, asked)
        return tuple(span for span in finished.generated if span[1] > start)

    def _answers(
        self, text: str, asked: str, turns: Sequence[Turn], where: str
    ) -> tuple[Span, ...]:
        """Spans of the answers: each from the end of its prompt, the last to the text's end."""
        if not text.startswith(asked):
            raise _unlike(where, text, asked)
        return (*self._earlier_answers(text, turns, where), (len(asked), len(text)))

    def _earlier_answers(self, text: str, turns: Sequence[Turn], where: str) -> Iterator[Span]:
        lead = self.bridge.removeprefix(self.tail)
        for index, turn in enumerate(turns[:-1]):
            if turn.role != "assistant" or turn.given:
                continue
            with foreign_input(FIELD, where, _ALLOWED, _REMEDY):
                asked = self._rendered(turns[:index], asks=True).text
            start = len(asked)
            after = text[start:]
            wholes = [
                before + content + self.inner_end
                for before in ("", lead)
                for content in (turn.content, turn.content.strip())
            ]
            fitting = next((whole for whole in wholes if after.startswith(whole)), None)
            if not text.startswith(asked) or fitting is None:
                raise InputError(
                    FIELD,
                    f"{where}, where it changes the earlier answer {turn.content[:20]!r}",
                    _MARKS,
                    _MARK_THEM,
                )
            yield start, start + len(fitting)

    @cached_property
    def inner_end(self) -> str:
        """What follows an answer that another turn follows."""
        marks = [
            (_PROMPT, "user"),
            (_ANSWER, "assistant"),
            (_NEXT_PROMPT, "user"),
            (_LAST_ANSWER, "assistant"),
        ]
        turns = self.with_system([Turn(role, mark) for mark, role in marks])
        with foreign_input(FIELD, self.template.name, _ALLOWED, _REMEDY):
            text = self._rendered(turns).text
        if any(text.count(mark) != 1 for mark, _ in marks):
            raise InputError(FIELD, self.template.name, "one that shows every turn once")
        first = text.partition(_PROMPT)[0]
        between = text.partition(_ANSWER)[2].partition(_NEXT_PROMPT)[0]
        last = text.partition(_LAST_ANSWER)[2]
        if between.startswith(last):
            return last
        # Something stands after the last answer alone (Phi-3's end of text): the end of an
        # earlier one is then what comes before the header that the first prompt has, too.
        end = between[: len(between) - _alike(between[::-1], first[::-1])]
        if not last.startswith(end):
            raise InputError(FIELD, self.template.name, _MARKS, _MARK_THEM)
        return end

    def _prompt(self, text: str, asked: str, prompt: str) -> Span | None:
        end = len(asked) - len(self.tail)
        for shown in (prompt, prompt.strip()):
            if asked.endswith(shown + self.tail) and text.startswith(asked[:end]):
                return end - len(shown), end
        return None

    def _answer(self, text: str, asked: str, answer: str, prompt: Span | None) -> int:
        if prompt is not None and text.startswith(self.bridge, prompt[1]):
            return prompt[1] + len(self.bridge)
        start = _alike(asked, text)
        return max(text.find(answer.strip(), start), start)


def chat_form(template: ChatTemplate) -> ChatForm:
    """The form of a template, or InputError with the reason of the refusal."""
    turns = _with_system(template, [Turn("user", _PROMPT), Turn("assistant", _ANSWER)])
    parts = _wants_parts(template, turns)
    with foreign_input(FIELD, template.name, _ALLOWED, _REMEDY):
        asked = template.render(turns[:-1], asks=True, parts=parts).text
        finished = template.render(turns, parts=parts)
        again = template.render(turns, parts=parts)
    if finished != again:
        raise InputError(FIELD, template.name, "one that renders the same text every time")
    if not _shows(asked, _PROMPT) or not _shows(finished.text, _PROMPT, _ANSWER):
        raise InputError(
            FIELD,
            f"{template.name}, which does not show each turn that it is given once",
            _ALLOWED,
            "name another template in data.chat_template",
        )
    system = template.inputs.system
    if system is not None and system.strip() not in finished.text:
        raise InputError("data.system", system, "left out where the chat template does not show it")
    if template.marked:
        _check_marks(template, finished)
    elif not finished.text.startswith(asked):
        raise _unlike(template.name, finished.text, asked)
    bridge = finished.text.partition(_PROMPT)[2].partition(_ANSWER)[0]
    end = finished.text.partition(_ANSWER)[2]
    return ChatForm(template, parts, bridge, asked.partition(_PROMPT)[2], end)


def _with_system(template: ChatTemplate, turns: Sequence[Turn]) -> list[Turn]:
    system = template.inputs.system
    own = bool(turns) and turns[0].role == "system"
    return [*turns] if own or system is None else [Turn("system", system), *turns]


def _wants_parts(template: ChatTemplate, turns: Sequence[Turn]) -> bool:
    """Whether only lists of typed parts are shown, as by templates of multimodal models.

    Where neither they nor plain texts are, InputError with the reason that plain texts give.
    """
    reasons = []
    for parts in (False, True):
        try:
            text = template.render(turns, parts=parts).text
        except Exception as error:  # whatever a template raises: an answer to the question
            reasons.append(reason_of(error))
        else:
            if _shows(text, _PROMPT, _ANSWER):
                return parts
            reasons.append("it does not show the turns that it is given")
    raise InputError(FIELD, template.name, _ALLOWED, f"{_REMEDY} ({reasons[0]})")


def _alike(one: str, other: str) -> int:
    """The number of characters that two texts have in common at their start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _shows(text: str, *marks: str) -> bool:
    return all(text.count(mark) == 1 for mark in marks)


def _check_marks(template: ChatTemplate, finished: Rendered) -> None:
    at = finished.text.index(_ANSWER)
    if not any(start <= at < end for start, end in finished.generated):
        raise InputError(
            FIELD,
            f"{template.name}, whose {{% generation %}} misses the answer",
            "one that puts it around each answer, outside of macros",
        )


def _unlike(where: str, text: str, asked: str) -> InputError:
    """The refusal of a template whose prompt for an answer differs from its finished turn."""
    at = _alike(text, asked)
    return InputError(
        FIELD,
        f"{where}, which begins an answer with {asked[at:][:20]!r} where the finished turn "
        f"has {text[at:][:20]!r}",
        _MARKS,
        _MARK_THEM,
    )
