"""What a run trains: a LoRA adapter on a frozen base, or every parameter of the model.

Everything else works on trained parameters by name and does not ask which they are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from airtune.config.experiment import AdapterSection, ExperimentConfig
from airtune.errors import InputError
from airtune.federated.records.run_folder import RunFolder
from airtune.files import filled_whole
from airtune.tuning.adapter import (
    AdapterSettings,
    attach,
    load_state,
    save_adapter,
    save_model,
    train_every_parameter,
)
from airtune.tuning.base_model import BaseModel, write_model
from airtune.workload.adapter_shape import AdapterShape, EveryParameter, Trained

FULL = "full"
WITHOUT_FACTORS = ("fedlora", "centralised")
"""Methods that know nothing of LoRA's factors; they train, send and average whatever there is."""


def check_trained(config: ExperimentConfig) -> None:
    """Refuse full tuning where it cannot be, before anything is loaded."""
    if config.adapter.kind != FULL:
        return
    if config.method not in WITHOUT_FACTORS:
        raise InputError(
            "adapter.kind", FULL, f"lora for {config.method}, which works on LoRA's factors",
            f"set method={WITHOUT_FACTORS[0]} to compare with",
        )  # fmt: skip
    if config.dtype != "fp32":
        raise InputError("dtype", config.dtype, "fp32 where every parameter is trained")
    if config.adapter.dropout:
        raise InputError("adapter.dropout", config.adapter.dropout, "0 with adapter.kind: full")
    if config.adapter.start is not None:
        raise InputError(
            "adapter.start", config.adapter.start, "null with adapter.kind: full",
            "name the folder of the model to start from as model",
        )  # fmt: skip


def trained_shape(config: ExperimentConfig) -> Trained:
    """What is trained, as the workload counts it."""
    if config.adapter.kind == FULL:
        return EveryParameter()
    return lora_shape(config.adapter)


def trainable(base: BaseModel, config: ExperimentConfig) -> Any:
    """The model with what is trained of it, or on it."""
    if config.adapter.kind == FULL:
        return train_every_parameter(base)
    return attach(base, lora_settings(config.adapter))


def write_trained(
    config: ExperimentConfig, base: BaseModel, model: Any, state: Mapping[str, Tensor],
    folder: Path, *, merge: bool = False,
) -> None:  # fmt: skip
    """A PEFT adapter, or the model with it merged in; of full tuning, either way, the model.

    A merged model is used up.
    """
    if config.adapter.kind == FULL:
        save_model(base, state, folder)
    elif merge:
        load_state(model, dict(state))
        write_model(model.merge_and_unload(), base.tokenizer, folder)
    else:
        save_adapter(model, dict(state), folder)


def write_result(
    config: ExperimentConfig, base: BaseModel, model: Any, state: Mapping[str, Tensor],
    folder: RunFolder,
) -> None:  # fmt: skip
    """What was trained, into its place in the run folder."""
    target = folder.model if config.adapter.kind == FULL else folder.adapter
    with filled_whole("--out", target, "free some space, and run `airtune resume`") as place:
        write_trained(config, base, model, state, place)


def lora_shape(section: AdapterSection) -> AdapterShape:
    """The adapter section as the workload counts it."""
    settings = lora_settings(section)
    return AdapterShape(settings.rank, settings.target_modules, settings.rank_pattern)


def lora_settings(section: AdapterSection) -> AdapterSettings:
    """The adapter section in tuning's words."""
    targets = section.target_modules
    modules = targets if isinstance(targets, str) else tuple(targets)
    return AdapterSettings(
        section.rank, section.alpha, modules, section.dropout,
        tuple(section.rank_pattern.items()), tuple(section.alpha_pattern.items()),
    )  # fmt: skip
