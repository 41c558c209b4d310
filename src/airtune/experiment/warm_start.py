"""A warm start settles the adapter's rank, scale and matrices, as its own config has them."""

from collections.abc import Mapping
from math import isclose
from pathlib import Path
from statistics import mode
from typing import Any

from airtune.config.experiment import AdapterSection, ExperimentConfig
from airtune.errors import InputError
from airtune.experiment.trained import lora_settings, lora_shape
from airtune.tuning.warm_start import FIELD, AdaptedMatrix, read_start
from airtune.workload.adapter_shape import (
    ALL_LINEAR,
    AdapterShape,
    Trained,
    first_that_fits,
    matrix_paths,
)
from airtune.workload.architecture import Architecture

KEYS = ("rank", "alpha", "target_modules", "rank_pattern", "alpha_pattern")
"""Keys of the adapter section that `adapter.start` settles."""


def with_start(config: ExperimentConfig, architecture: Architecture) -> ExperimentConfig:
    """The experiment with the adapter section that its `adapter.start` was made with.

    Raises InputError for a key that asks for another adapter, with the value that it must have.
    """
    section = config.adapter
    if section.start is None:
        return config
    _refuse_chosen_rank(config)
    there = read_start(Path(section.start), architecture)
    settled = section.model_copy(update=_settled(there, architecture))
    for key in KEYS:
        given = getattr(section, key)
        if key not in section.model_fields_set or given is None:
            continue
        if not _describes(settled.model_copy(update={key: given}), there, architecture):
            wanted = getattr(settled, key)
            raise InputError(
                f"adapter.{key}", given, f"{wanted}, as {FIELD} was made",
                f"set adapter.{key} to that, or leave it out",
            )  # fmt: skip
    return config.model_copy(update={"adapter": settled})


def refuse_uneven_charge(name: str | None, shape: Trained, architecture: Architecture) -> None:
    """Refuse to charge another model for an adapter that differs from block to block."""
    if name and shape.adaptation(architecture).blocks:
        raise InputError(
            "charge_as", name, "null with an adapter that differs between blocks",
            "matrices of single blocks mean nothing in another model",
        )  # fmt: skip


def _refuse_chosen_rank(config: ExperimentConfig) -> None:
    """A rank that is chosen before round 1 is not the warm start's."""
    searches = config.method == "soft_tsfa" and config.soft_tsfa.rank_search
    chooses = config.method == "sflllm" and config.sflllm.rounds_table is not None
    if searches or chooses:
        raise InputError(
            FIELD, str(config.adapter.start), "null where the rank is chosen before round 1",
            f"leave out {'soft_tsfa.rank_search' if searches else 'sflllm.rounds_table'}",
        )  # fmt: skip


def _settled(there: Mapping[str, AdaptedMatrix], architecture: Architecture) -> dict[str, Any]:
    """The keys that describe these matrices; patterns only of what differs from the most."""
    rank = mode(matrix.rank for matrix in there.values())
    alpha = mode(matrix.alpha for matrix in there.values())
    return {
        "rank": rank,
        "alpha": alpha,
        "target_modules": _shortest_names(list(there), architecture),
        "rank_pattern": {path: each.rank for path, each in there.items() if each.rank != rank},
        "alpha_pattern": {path: each.alpha for path, each in there.items() if each.alpha != alpha},
    }


def _shortest_names(paths: list[str], architecture: Architecture) -> str | list[str]:
    """All matrices, some of every block by their names inside it, or single ones by their path."""
    everything = matrix_paths(architecture)
    if len(paths) == len(everything):
        return ALL_LINEAR
    names = tuple(dict.fromkeys(everything[path][1].name for path in paths))
    for short in (tuple(name.split(".")[-1] for name in names), names):
        if list(AdapterShape(1, short).ranks(architecture)) == paths:
            return list(short)
    return paths


def _describes(
    section: AdapterSection, there: Mapping[str, AdaptedMatrix], architecture: Architecture
) -> bool:
    """Whether the keys mean the same matrices, ranks and, but for rounding, alphas."""
    settings = lora_settings(section)
    return lora_shape(section).ranks(architecture) == {
        path: matrix.rank for path, matrix in there.items()
    } and all(
        isclose(first_that_fits(path, settings.alpha_pattern, settings.scale_alpha), matrix.alpha)
        for path, matrix in there.items()
    )
