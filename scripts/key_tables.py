"""Tables of every key of a file that a user writes, from the sections that airtune reads it by.

`scripts/record_tables.py` writes them between `<!-- keys KIND -->` and `<!-- end -->`; KIND is
`experiment`, `comparison`, `device` or `problem`.
"""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from airtune.comparison.definition import ComparisonFile
from airtune.config.experiment import ExperimentConfig
from airtune.cost.device import DeviceSection
from airtune.experiment.reading import sections_of
from airtune.methods.registry import problem_specs, shipped_methods
from airtune.planning.table import TableOf
from airtune.section import spots, usual_ranges

HEAD = "| key | default | allowed | meaning |\n|---|---|---|---|"


def experiment_keys() -> str:
    """Every key of an experiment file: those at the top, then a heading for each section."""
    shipped = shipped_methods()
    lines = [*_section(ExperimentConfig, "", "At the top")]
    for name, options in sections_of(list(shipped)).items():
        lines += _section(options, name, name, shipped[name].title)
    return "\n".join(lines)


def comparison_keys() -> str:
    """Every key of a comparison file but those of its experiment."""
    return "\n".join(_table(ComparisonFile, ""))


def device_keys() -> str:
    """Every key of a device profile."""
    return "\n".join(_table(DeviceSection, ""))


def problem_keys() -> str:
    """Every key of planning problems in explicit numbers, by method."""
    lines: list[str] = []
    for name, problem in problem_specs().items():
        lines += _section(problem.load().FILE, "", name, kind="Problem ")
    return "\n".join(lines)


KEYS = {
    "experiment": experiment_keys,
    "comparison": comparison_keys,
    "device": device_keys,
    "problem": problem_keys,
}
"""The tables of each kind of file."""


def _section(
    section: type[BaseModel], place: str, title: str, about: str = "", kind: str = ""
) -> Iterator[str]:
    """A heading, a table of the section's own keys, and the same for the sections in it."""
    yield f"### {kind}{title}\n"
    if about:
        yield f"{about[0].upper()}{about[1:]}.\n"
    yield from _table(section, place)
    yield ""
    for key, inner in _inner(section):
        below = f"{place}.{key}".lstrip(".")
        name = f"{title.partition(',')[0]}, {below}" if kind else below
        meaning = section.model_fields[key.removesuffix("[]")].description or ""
        yield from _section(inner, below, name, meaning, kind)


def _inner(section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Keys whose value is a section, and lists of them as `key[]`."""
    for key, spot in spots(section).items():
        # Options of methods have headings of their own.
        entry = None if key == "methods" else spot.below(0)
        table = next((part.client for part in spot.metadata if isinstance(part, TableOf)), None)
        if spot.section is not None:
            yield key, spot.section
        elif table is not None:
            yield f"{key}[]", table
        elif entry is not None and entry.section is not None:
            yield f"{key}[]", entry.section


def _table(section: type[BaseModel], place: str) -> Iterator[str]:
    yield HEAD
    usual = {key: f" ({found.words})" for key, found in usual_ranges(section)}
    elsewhere = {"methods", *(key.removesuffix("[]") for key, _ in _inner(section))}
    for key, spot in spots(section).items():
        if key in elsewhere:
            continue
        field = section.model_fields[key]
        name = f"{place}.{key}".lstrip(".")
        meaning = _escaped((field.description or "") + usual.get(key, ""))
        default = _default(field.get_default(call_default_factory=True))
        allowed = ", ".join(map(str, spot.choices)) or spot.words
        yield f"| `{name}` | {default} | {_escaped(allowed)} | {meaning} |"


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "needed"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, float):
        return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:g}")
    return _escaped(str(value))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
