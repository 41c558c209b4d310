"""Paths of an experiment that hold in any folder, as the experiment of a run folder has them."""

from pathlib import Path
from typing import Any, TypeVar

from airtune.config.experiment import ExperimentConfig
from airtune.section import Section

SectionT = TypeVar("SectionT", bound=Section)


def with_absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """Every name that exists as a path, made to hold in any folder."""
    sections = {
        "data": _with_paths(config.data, "train", "test"),
        "adapter": _with_paths(config.adapter, "start"),
        "clients": _with_paths(config.clients, "device_file"),
    }
    cell = _with_paths(config.cell, "trace", "trace_downlink", "replay")
    named = _with_paths(config, "model", "charge_as")
    return named.model_copy(update={**sections, "cell": cell})


def _with_paths(section: SectionT, *keys: str) -> SectionT:
    return section.model_copy(update={key: _absolute(getattr(section, key)) for key in keys})


def _absolute(name: Any) -> Any:
    """A name that exists as a path, made to hold in any folder; lists entry by entry."""
    if isinstance(name, str):
        return str(Path(name).resolve()) if name and Path(name).exists() else name
    return [_absolute(entry) for entry in name] if name is not None else None
