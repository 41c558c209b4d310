"""Paths of an experiment that hold in any folder, as the experiment of a run folder has them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from airtune.config.experiment import ExperimentConfig
from airtune.section import Section

SectionT = TypeVar("SectionT", bound=Section)
_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "data": ("train", "test"),
    "adapter": ("start",),
    "clients": ("device_file",),
    "cell": ("trace", "trace_downlink", "replay"),
}
_TOP = ("model", "charge_as")


def with_absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """Every name that exists as a path, made to hold in any folder."""
    sections = {name: _with_paths(getattr(config, name), *keys) for name, keys in _SECTIONS.items()}
    return _with_paths(config, *_TOP).model_copy(update=sections)


def absolute_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same of keys that are not read yet."""
    sections = {
        name: {**values[name], **_absolute_keys(values[name], keys)}
        for name, keys in _SECTIONS.items()
        if isinstance(values.get(name), Mapping)
    }
    return {**values, **_absolute_keys(values, _TOP), **sections}


def _absolute_keys(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: _absolute(values[key]) for key in keys if isinstance(values.get(key), str | list)}


def _with_paths(section: SectionT, *keys: str) -> SectionT:
    return section.model_copy(update={key: _absolute(getattr(section, key)) for key in keys})


def _absolute(name: Any) -> Any:
    """A name that exists as a path, made to hold in any folder; lists entry by entry."""
    if isinstance(name, str):
        return str(Path(name).resolve()) if name and Path(name).exists() else name
    return [_absolute(entry) for entry in name] if name is not None else None
