"""What a run trains: a LoRA adapter on a frozen base, or every parameter of the model.

Everything else works on trained parameters by name, whichever they are. A warm start settles the
adapter's rank, scale and matrices, as its own config has them.
"""

from collections.abc import Iterator, Mapping
from math import isclose
from pathlib import Path
from statistics import mode
from typing import Any

from torch import Tensor

from airtune.config.experiment import AdapterSection, ExperimentConfig
from airtune.cost.device import DeviceProfile, rates_notice
from airtune.errors import InputError
from airtune.federated.records.run_folder import RunFolder
from airtune.files import filled_whole, write_text_atomic
from airtune.methods.registry import find_method, shipped_methods
from airtune.tuning.adapter import (
    AdapterSettings,
    attach,
    merged,
    save_adapter,
    save_model,
    train_every_parameter,
)
from airtune.tuning.base_change import load_whole, plain_adapter
from airtune.tuning.base_model import BaseModel, write_model
from airtune.tuning.unweighted import UnweightedModel
from airtune.tuning.warm_start import FIELD, AdaptedMatrix, read_start
from airtune.workload.adapter_shape import (
    ALL_LINEAR,
    AdapterShape,
    EveryParameter,
    Trained,
    first_that_fits,
    matrix_paths,
)
from airtune.workload.architecture import Decoder
from airtune.workload.precision import Precision

FULL = "full"
CARD = "README.md"
"""The model card, beside what was trained."""


def check_trained(config: ExperimentConfig) -> None:
    """Refuse full tuning where it cannot be, before anything is loaded."""
    if config.adapter.kind != FULL:
        return
    if find_method(config.method).needs_factors:
        raise InputError(
            "adapter.kind",
            FULL,
            f"lora for {config.method}, which works on LoRA's factors",
            f"set method={_without_factors()} to compare with",
        )
    if config.dtype != "fp32":
        raise InputError("dtype", config.dtype, "fp32 where every parameter is trained")
    if config.adapter.dropout:
        raise InputError("adapter.dropout", config.adapter.dropout, "0 with adapter.kind: full")
    if config.adapter.start is not None:
        raise InputError(
            "adapter.start",
            config.adapter.start,
            "null with adapter.kind: full",
            "name the folder of the model to start from as model",
        )


def _without_factors() -> str:
    """The first method that trains, sends and averages whatever there is."""
    return next(spec.name for spec in shipped_methods().values() if not spec.needs_factors)


def precision_of(config: ExperimentConfig) -> Precision:
    """What fixes bytes of the model that is trained or charged for."""
    training = config.training
    return Precision(
        config.dtype,
        training.optimizer,
        compute=config.compute_dtype,
        checkpointing=training.gradient_checkpointing,
        micro_batches=training.gradient_accumulation,
    )


def precision_notices(
    config: ExperimentConfig, devices: tuple[DeviceProfile, ...]
) -> Iterator[str]:
    """Sentences on a base that is not fp32: what is quantised, and what rates are charged."""
    precision = precision_of(config)
    if precision.is_quantised:
        compute = precision.compute_dtype
        yield (
            f"The matrices in the blocks of {config.model} are held in {config.dtype} and "
            f"multiplied in {compute}; LM head, embeddings and norms are {compute}."
        )
    if config.dtype != "fp32" and (rates := rates_notice(devices, config.dtype)):
        yield rates


def trained_shape(config: ExperimentConfig) -> Trained:
    """What is trained, as the workload counts it."""
    if config.adapter.kind == FULL:
        return EveryParameter()
    return lora_shape(config.adapter)


def trainable(base: BaseModel, config: ExperimentConfig) -> Any:
    """The model with what is trained of it, or on it."""
    if isinstance(base.model, UnweightedModel):
        settings = None if config.adapter.kind == FULL else lora_settings(config.adapter)
        return base.model.with_trained(trained_shape(config), settings)
    if config.adapter.kind == FULL:
        return train_every_parameter(base)
    return attach(base, lora_settings(config.adapter))


def write_trained(
    config: ExperimentConfig,
    base: BaseModel,
    model: Any,
    state: Mapping[str, Tensor],
    folder: Path,
    *,
    merge: bool = False,
) -> None:
    """A PEFT adapter, or the model with it merged in; of full tuning, either way, the model.

    A merged model is used up.
    """
    if config.adapter.kind == FULL:
        save_model(base, state, folder)
    elif merge:
        load_whole(model, state)
        write_model(merged(model), base.tokenizer, folder)
    else:
        factors, stated = plain_adapter(model, state)
        save_adapter(model, factors, folder, stated)


def write_result(
    config: ExperimentConfig,
    base: BaseModel,
    model: Any,
    state: Mapping[str, Tensor],
    card: str,
    folder: RunFolder,
) -> None:
    """What was trained, with its model card, into its place in the run folder."""
    target = folder.model if config.adapter.kind == FULL else folder.adapter
    with filled_whole("--out", target, "free some space, and run `airtune resume`") as place:
        write_trained(config, base, model, state, place)
        write_text_atomic(place / CARD, card)


def lora_shape(section: AdapterSection) -> AdapterShape:
    """The adapter section as the workload counts it."""
    settings = lora_settings(section)
    return AdapterShape(settings.rank, settings.target_modules, settings.rank_pattern)


def lora_settings(section: AdapterSection) -> AdapterSettings:
    """The adapter section in tuning's words."""
    targets = section.target_modules
    modules = targets if isinstance(targets, str) else tuple(targets)
    return AdapterSettings(
        section.rank,
        section.alpha,
        modules,
        section.dropout,
        tuple(section.rank_pattern.items()),
        tuple(section.alpha_pattern.items()),
    )


KEYS = ("rank", "alpha", "target_modules", "rank_pattern", "alpha_pattern")
"""Keys of the adapter section that `adapter.start` settles."""


def with_start(config: ExperimentConfig, architecture: Decoder) -> ExperimentConfig:
    """The experiment with the adapter section that its `adapter.start` was made with.

    Raises InputError for a key that means another adapter, with the value that it must have.
    """
    section = config.adapter
    if section.start is None:
        return config
    _refuse_chosen_rank(config)
    there = read_start(Path(section.start), architecture)
    settled = section.model_copy(update=_settled_keys(there, architecture))
    for key in KEYS:
        given = getattr(section, key)
        if key not in section.model_fields_set or given is None:
            continue
        if not _describes(settled.model_copy(update={key: given}), there, architecture):
            wanted = getattr(settled, key)
            raise InputError(
                f"adapter.{key}",
                given,
                f"{wanted}, as {FIELD} was made",
                f"set adapter.{key} to that, or leave it out",
            )
    return config.model_copy(update={"adapter": settled})


def refuse_uneven_charge(name: str | None, shape: Trained, architecture: Decoder) -> None:
    """Refuse to charge another model for an adapter that differs from block to block."""
    if name and shape.adaptation(architecture).blocks:
        raise InputError(
            "charge_as",
            name,
            "null with an adapter that differs between blocks",
            "matrices of single blocks mean nothing in another model",
        )


def _refuse_chosen_rank(config: ExperimentConfig) -> None:
    """A rank that is chosen before round 1 is not the warm start's."""
    spec = find_method(config.method)
    key = spec.chooses_rank(config.section(spec.options))
    if key is not None:
        raise InputError(
            FIELD,
            str(config.adapter.start),
            "null where the rank is chosen before round 1",
            f"leave out {spec.name}.{key}",
        )


def _settled_keys(there: Mapping[str, AdaptedMatrix], architecture: Decoder) -> dict[str, Any]:
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


def _shortest_names(paths: list[str], architecture: Decoder) -> str | list[str]:
    """All matrices, some of every block by their names inside it, or single ones by their path."""
    everything = matrix_paths(architecture)
    if len(paths) == len(everything):
        return ALL_LINEAR
    names = tuple(dict.fromkeys(everything[path].name for path in paths))
    for short in (tuple(name.split(".")[-1] for name in names), names):
        if list(AdapterShape(1, short).ranks(architecture)) == paths:
            return list(short)
    return paths


def _describes(
    section: AdapterSection, there: Mapping[str, AdaptedMatrix], architecture: Decoder
) -> bool:
    """Whether the keys mean the same matrices, ranks and, but for rounding, alphas."""
    settings = lora_settings(section)
    return lora_shape(section).ranks(architecture) == {
        path: matrix.rank for path, matrix in there.items()
    } and all(
        isclose(first_that_fits(path, settings.alpha_pattern, settings.scale_alpha), matrix.alpha)
        for path, matrix in there.items()
    )
