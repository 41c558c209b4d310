"""Reading an experiment: the keys of the file, and a section for each registered method."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from airtune.config.experiment import FORMAT, PART_KEYS, ExperimentConfig, with_settings
from airtune.errors import secret_options
from airtune.files import hide_filled, read_yaml_mapping, take_format, with_environment
from airtune.methods.file_kinds import EXPERIMENT, refuse_other_kind, refuse_run_folder
from airtune.methods.registry import specs_of
from airtune.section import Section, check, unknown_key


def read_config(path: Path | str | None = None, settings: Sequence[str] = ()) -> ExperimentConfig:
    """The experiment of a file (None: the built-in one) with `--set` values put in."""
    values: dict[str, Any] = {}
    if path:
        refuse_run_folder(path)
        values = read_yaml_mapping(path, "EXPERIMENT.yaml")
        take_format(values, str(path), FORMAT)
        refuse_other_kind(values, path, EXPERIMENT)
    return check_filled(with_settings(values, settings))


def check_filled(values: Mapping[str, Any]) -> ExperimentConfig:
    """Validate an experiment whose texts may hold `${NAME}`; it records which do.

    A secret that is given in clear as an option of a part counts as `${AIRTUNE_PART_OPTION}`, so
    that it is written nowhere either.
    """
    filled, templates = with_environment(values)
    config = checked(filled)
    config._templates = {**secret_options(filled, (*PART_KEYS, "report_to")), **templates}
    hide_filled(config._templates)
    return config


@cache
def default_experiment() -> ExperimentConfig:
    """The built-in experiment, with the section of every shipped method."""
    return checked({})


def sections_of(names: Sequence[str] = ()) -> dict[str, type[Section]]:
    """Method -> its section: of those shipped, and of the installed ones that are named."""
    return {
        spec.name: spec.options
        for spec in specs_of(names)
        if spec.compose is not None and spec.options.model_fields
    }


def checked(values: Mapping[str, Any]) -> ExperimentConfig:
    """Validate an experiment as it is; `${NAME}` in it is plain text.

    The sections are those of methods that are shipped, named as method, or given.
    """
    sections = sections_of([*map(str, values), str(values.get("method"))])
    keys = [key for key in ExperimentConfig.model_fields if key != "methods"]
    for key in values:
        if key not in keys and key not in sections:
            raise unknown_key(str(key), str(key), [*keys, *sections])
    options = {
        name: check(section, values.get(name, {}), name) for name, section in sections.items()
    }
    top = {key: value for key, value in values.items() if key not in sections}
    return check(ExperimentConfig, top).model_copy(update={"methods": options})
