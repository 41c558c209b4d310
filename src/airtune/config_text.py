"""Experiment files as text: the commented one for a newcomer, the resolved one of a run."""

import io
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from airtune.config import ExperimentConfig
from airtune.wireless.cell import CellSettings

_INDENT = "  "


def _plain(value: Any) -> Any:
    """Only what YAML knows: mappings, lists and scalars."""
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def resolved_yaml(config: ExperimentConfig) -> str:
    """Every key of an experiment with the value in force."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(_plain(config), stream)
    return stream.getvalue()


def _scalar(value: Any) -> str:
    """One value on one line."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = True
    yaml.width = 10_000
    yaml.dump({"k": _plain(value)}, stream)
    return stream.getvalue().strip().removeprefix("{k: ").removesuffix("}")


def _lines(section: Any, indent: str) -> Iterator[str]:
    for name, about in _documented(section):
        value = getattr(section, name)
        if isinstance(value, BaseModel | CellSettings):
            yield f"{indent}{name}:  # {about}"
            yield from _lines(value, indent + _INDENT)
        else:
            yield f"{indent}{name}: {_scalar(value)}  # {about}"


def _documented(section: Any) -> list[tuple[str, str]]:
    if isinstance(section, BaseModel):
        return [(n, f.description or "") for n, f in type(section).model_fields.items()]
    return [(field.name, field.metadata["help"]) for field in fields(section)]


def commented_defaults() -> str:
    """The built-in experiment with every key explained; it reads back to the same experiment."""
    head = (
        "# An airtune experiment. Every key may be left out; these are the defaults.\n"
        "# Run it with: airtune run THIS_FILE\n"
    )
    return head + "\n".join(_lines(ExperimentConfig(), "")) + "\n"
