"""Values from the environment, and how they are kept out of messages and files.

Every `${NAME}` of an experiment counts as secret. What is written has the template in place of the
value; a sentence that would hold the value has the template too.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

SECRET = re.compile(r"token|secret|passw|api_?key|credential|(private|access)_?key", re.IGNORECASE)
"""Names of options whose values are secret wherever they come from."""
SHORTEST = 4
"""Characters below which a value (`8`, `cpu`) is too common to be replaced by its template."""
_templates: dict[str, str] = {}


def hide(value: str, template: str) -> None:
    """From now on `redacted` writes the template for this value."""
    if len(value) >= SHORTEST:
        _templates[value] = template


def redacted(text: str) -> str:
    """The text with a template for every hidden value that stands in it as a whole."""
    for value in sorted(_templates, key=len, reverse=True):
        if value in text:
            # `data` is no part of `database`, nor of the key `data.train`.
            whole = rf"(?<![\w.]){re.escape(value)}(?!\w|\.\w)"
            text = re.sub(whole, _templates[value].replace("\\", r"\\"), text)
    return text


def secret_options(
    values: Mapping[str, Any], parts: Iterable[str]
) -> dict[tuple[str | int, ...], tuple[str, str]]:
    """Options of parts whose names mark them as secret: place -> (`${AIRTUNE_PART_OPTION}`,
    value)."""
    return {
        (part, key): (_variable(part, str(key)), value)
        for part in parts
        if isinstance(values.get(part), Mapping)
        for key, value in values[part].items()
        if SECRET.search(str(key)) and isinstance(value, str)
    }


def _variable(part: str, key: str) -> str:
    name = re.sub(r"\W", "_", f"AIRTUNE_{part}_{key}".upper())
    return f"${{{name}}}"
