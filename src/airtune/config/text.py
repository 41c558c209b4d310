"""Experiment files as text: the commented one of `airtune init`, the resolved one of a run."""

import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from airtune.config.experiment import FORMAT, ExperimentConfig
from airtune.files import read_yaml_mapping, take_format

_INDENT = "  "


def _plain(value: Any, given: bool = False) -> Any:
    """Only what YAML has: mappings, lists and scalars; with `given` only keys that were set."""
    if isinstance(value, BaseModel):
        names = type(value).model_fields
        kept = [name for name in names if not given or name in value.model_fields_set]
        return {name: _plain(getattr(value, name), given) for name in kept}
    if isinstance(value, tuple | list):
        return [_plain(item, given) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item, given) for key, item in value.items()}
    return value


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted keys; an empty mapping is a value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def plain_values(
    config: ExperimentConfig, *, templates: bool = True, given: bool = False
) -> dict[str, Any]:
    """Every key of an experiment, or with `given` each that was set, as mappings, lists and
    scalars.

    A value that came from the environment is its template, as long as it is still that value.
    """
    values = _flattened(_plain(config, given))
    for place, (template, filled) in config._templates.items() if templates else ():
        holder: Any = values
        with suppress(KeyError, IndexError, TypeError):
            for key in place[:-1]:
                holder = holder[key]
            if _is_still(holder[place[-1]], filled):
                holder[place[-1]] = template
    return values


def _flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of methods as sections of their own, as in a file."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= value if key == "methods" else {key: value}
    return found


def _is_still(value: Any, filled: str) -> bool:
    """Whether a value is the one of a text: as it is, as a number or truth, or as a whole path."""
    if isinstance(value, bool):
        return str(value).lower() == filled.strip().lower()
    if isinstance(value, int | float):
        with suppress(ValueError):
            return float(filled) == value
        return False
    return value in (filled, str(Path(filled).resolve()))


def resolved_yaml(config: ExperimentConfig) -> str:
    """Every key of an experiment with the value in force, and the format of the file."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump({"format": FORMAT, **plain_values(config)}, stream)
    return stream.getvalue()


def read_resolved(path: Path) -> tuple[dict[str, Any], int]:
    """The keys of a run's experiment file, and its format. Raises InputError for a later one."""
    values = read_yaml_mapping(path, "RUN_DIR")
    found = take_format(values, str(path), FORMAT)
    if found == 1 and isinstance(values.get("cell"), dict):
        # Before there was this key, walking clients started uniform in area.
        values["cell"] = {"walk_start": "uniform", **values["cell"]}
    # A run from before there was this key was made on the processor, and continues there.
    return {"device": "cpu", **values}, found


def scalar(value: Any) -> str:
    """One value on one line."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = True
    yaml.width = 10_000
    yaml.dump({"k": _plain(value)}, stream)
    return stream.getvalue().strip().removeprefix("{k: ").removesuffix("}")


def _lines(section: BaseModel, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        about = field.description or ""
        value = getattr(section, name)
        if name == "methods":
            for method, own in value.items():
                yield f"{indent}{method}:  # options of {method}"
                yield from _lines(own, indent + _INDENT)
        elif isinstance(value, BaseModel):
            yield f"{indent}{name}:  # {about}"
            yield from _lines(value, indent + _INDENT)
        else:
            yield f"{indent}{name}: {scalar(value)}  # {about}"


def commented(config: ExperimentConfig) -> str:
    """An experiment with every key explained; it reads back to the same experiment."""
    head = (
        "# An airtune experiment. Every key may be left out; these are the defaults.\n"
        "# Run it with: airtune run THIS_FILE\n"
    )
    return head + "\n".join(_lines(config, "")) + "\n"
