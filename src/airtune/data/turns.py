"""Conversations in rows: lists of turns in the spellings that data sets use."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from airtune.data.cells import Json, Row, RowError, optional_text
from airtune.data.tasks import Example
from airtune.data.template import Turn

COLUMNS = ("conversations", "conversation", "messages")
"""Columns of whole conversations, the first that there is first."""
_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
_UNREAD = (
    "tool_calls",
    "function_call",
    "tool_call_id",
    "reasoning_content",
    "reasoning",
    "thinking",
    "weight",
    "train",
)
"""Keys of a turn that change what is shown or trained, none of which is supported."""


def chat_example(column: str, row: Row) -> Example:
    """A conversation that ends in an answer; a column `label` gives the label.

    Turns are `{role, content}` or `{from, value}`, contents texts or lists of text parts. A column
    `system` gives the system turn of a conversation that has none of its own. The prompt is all
    that comes before the last answer; every answer is trained.
    """
    turns = _turns(column, row[column])
    system = optional_text(row, "system")
    if system and turns[0].role != "system":
        turns = [Turn("system", system), *turns]
    return _example(column, turns, row)


def exchange_example(prompt: str, completion: str, row: Row) -> Example:
    """A conversation in two columns, as TRL has it: what is given, and what is trained.

    Answers in the prompt are shown and not trained; a column `label` gives the label.
    """
    for column in (prompt, completion):
        if not isinstance(row[column], Json):
            raise RowError(column, row[column], "a list of turns, as the other column is")
    given = [replace(turn, given=turn.role == "assistant") for turn in _turns(prompt, row[prompt])]
    answers = _turns(completion, row[completion])
    if {answers[0].role, answers[-1].role} != {"assistant"}:
        shown = f"turns from {answers[0].role} to {answers[-1].role}"
        raise RowError(completion, shown, "turns that begin and end with an answer")
    return _example(prompt, [*given, *answers], row)


def _example(column: str, turns: Sequence[Turn], row: Row) -> Example:
    _check_order(column, turns)
    *before, last = turns
    prompt = "\n".join(turn.content for turn in before)
    whole = tuple(turns) if len(turns) > 2 else ()
    return Example(prompt, last.content, row.get("label", ""), turns=whole)


def _turns(column: str, text: str) -> list[Turn]:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = None
    if not isinstance(items, list) or not items:
        raise RowError(column, text, "a list of turns")
    return [_turn(column, item) for item in items]


def _turn(column: str, item: Any) -> Turn:
    shown = json.dumps(item, ensure_ascii=False)
    if not isinstance(item, Mapping):
        raise RowError(column, shown, "a list of turns, each with role and content")
    unread = [key for key in _UNREAD if item.get(key) is not None]
    if unread:
        raise RowError(column, f"a turn with {unread[0]}", "turns of role and content alone")
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if not isinstance(role, str) or role not in _ROLES:
        raise RowError(column, f"a turn with the role {role!r}", f"roles {', '.join(_ROLES)}")
    if isinstance(content, list):
        content = _joined(content)
    if not isinstance(content, str):
        raise RowError(column, shown, "turns whose content is a text")
    return Turn(_ROLES[role], content)


def _joined(parts: list[Any]) -> str | None:
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        return None
    return "".join(str(text) for text in texts)


def _check_order(column: str, turns: Sequence[Turn]) -> None:
    roles = [turn.role for turn in turns]
    if roles[-1] != "assistant":
        raise RowError(
            column, f"a conversation that ends with the {roles[-1]}", "one that ends in an answer"
        )
    if "system" in roles[1:]:
        raise RowError(column, "a conversation with a system turn in it", "one with it in front")
    first = roles[1:2] if roles[0] == "system" else roles[:1]
    if first != ["user"]:
        raise RowError(
            column, "a conversation that begins with an answer", "one that begins with the user"
        )
