"""Conversations as data sets hold them: lists of turns, in the two common spellings."""

import json
from collections.abc import Mapping
from typing import Any

from airtune.data.row import Row, RowError
from airtune.data.tasks import Example
from airtune.data.template import Turn

_ROLES = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant",
}  # fmt: skip
_UNREAD = (
    "tool_calls", "function_call", "tool_call_id", "reasoning_content", "reasoning", "thinking",
    "weight", "train",
)  # fmt: skip
"""Keys of a turn that change what is shown or trained, none of which is supported."""


def chat_example(column: str, row: Row) -> Example:
    """A conversation that ends in an answer; a column `label` gives the label.

    Turns are `{role, content}` or `{from, value}`, contents texts or lists of text parts. The
    prompt is all that comes before the last answer.
    """
    turns = [_turn(column, item) for item in _items(column, row[column])]
    _check_order(column, turns)
    *before, last = turns
    prompt = "\n".join(turn.content for turn in before)
    return Example(
        prompt, last.content, row.get("label", ""), turns=tuple(turns) if len(turns) > 2 else ()
    )


def _items(column: str, text: str) -> list[Any]:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = None
    if not isinstance(items, list) or not items:
        raise RowError(column, text, "a list of turns")
    return items


def _turn(column: str, item: Any) -> Turn:
    shown = json.dumps(item, ensure_ascii=False)
    if not isinstance(item, Mapping):
        raise RowError(column, shown, "a list of turns, each with role and content")
    unread = [key for key in _UNREAD if item.get(key) is not None]
    if unread:
        raise RowError(column, f"a turn with {unread[0]}", "turns of role and content alone")
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if role not in _ROLES:
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


def _check_order(column: str, turns: list[Turn]) -> None:
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
