"""Reading numbers from a Hugging Face config mapping, with errors that name the key."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airtune.errors import InputError


@dataclass(frozen=True)
class ConfigFields:
    """A config.json's content. A default stands for the one that transformers' class has."""

    values: Mapping[str, Any]

    def count(self, *keys: str, default: int | None = None) -> int:
        """A positive whole number under the first of these keys that is present and not null."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                shown = f'"{value}"' if isinstance(value, str) else value
                raise InputError(f"config.{key}", shown, "a positive whole number")
            return value
        if default is None:
            raise InputError(
                f"config.{keys[0]}", "missing", "given", "use the model's complete config.json"
            )
        return default

    def flag(self, key: str, default: bool) -> bool:
        """A truth value; null means the default."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InputError(f"config.{key}", value, "true or false")
        return value

    def text(self, *keys: str, default: str | None = None) -> str:
        """A string under the first of these keys that is present."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if not isinstance(value, str):
                raise InputError(f"config.{key}", value, "a string")
            return value
        if default is None:
            raise InputError(f"config.{keys[0]}", "missing", "given")
        return default
