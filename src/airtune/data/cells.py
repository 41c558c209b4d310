"""What a row of a source is: columns and their texts, and what becomes of values that are none."""

import json
import math
from collections.abc import Mapping
from typing import Any

from airtune.files import refuse_half_characters

Row = Mapping[str, str]
"""Column name to text."""
_LISTS = ("messages", "conversations", "conversation")
"""Columns whose lists are handed on, whatever is in them."""
_TURNS = ("prompt", "completion")
"""Columns whose lists are handed on where they are lists of objects."""
_OPTIONAL = ("input", "context", "system")
"""Columns that a row may lack: what is no text in them is handed on, so that it can be refused."""


class Flag(str):
    """`true` or `false` of a JSON row: a label or a group, but not a text to learn."""


class Json(str):
    """A list or an object of a JSON row, as JSON: a conversation, but not a text to learn."""


class RowError(Exception):
    """A row that cannot become an example: (column, value, what is allowed)."""

    def __init__(self, column: str, value: str, allowed: str) -> None:
        super().__init__(column, value, allowed)
        self.column, self.value, self.allowed = column, value, allowed


def texts(values: Mapping[str, Any], place: str) -> Row:
    """Texts as they are, finite numbers as text; a column of anything else stays out of the row.

    Other columns (lists, nested objects) may well be there unused; the column check reports one
    that is needed. Conversations stay in it, as `Json`. Raises InputError for half a character.
    """
    found = {}
    for column, value in values.items():
        if isinstance(value, str):
            found[column] = value
        elif isinstance(value, bool):
            found[column] = Flag(str(value).lower())
        elif isinstance(value, int | float) and math.isfinite(value):
            # A hub data set has NaN where a value is missing, and 1e999 overflows to infinity.
            found[column] = str(value)
        elif _is_handed_on(column, value):
            # What JSON has no form for, such as a day in a parquet file, is never part of a turn.
            found[column] = Json(json.dumps(value, ensure_ascii=False, default=str))
    for column, text in found.items():
        refuse_half_characters(text, f"{place}, column {column!r}")
    return found


def _is_handed_on(column: str, value: Any) -> bool:
    if column in _OPTIONAL:
        return isinstance(value, list | dict)
    if not isinstance(value, list):
        return False
    turns = column in _TURNS and bool(value) and all(isinstance(item, dict) for item in value)
    return turns or column in _LISTS


def optional_text(row: Row, column: str) -> str:
    """The text of a column that a row may lack, empty where it does; RowError for no text."""
    text = row.get(column, "")
    if isinstance(text, Flag | Json):
        raise RowError(column, text, "a text, or left out")
    return text
