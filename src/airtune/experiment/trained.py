"""What a run trains: a LoRA adapter on a frozen base, or every parameter of the model.

Everything else works on trained parameters by name and does not ask which they are.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from airtune.config import ExperimentConfig
from airtune.errors import AirtuneError, InputError
from airtune.federated.record import RunFolder
from airtune.files import make_folder
from airtune.tuning.adapter import AdapterSettings, attach, save_adapter
from airtune.tuning.base_model import BaseModel
from airtune.tuning.every_parameter import replaced_whole, save_model, train_every_parameter
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
    settings = _lora(config)
    return AdapterShape(settings.rank, settings.target_modules)


def trainable(base: BaseModel, config: ExperimentConfig) -> Any:
    """The model with what is trained of it, or on it."""
    return (
        train_every_parameter(base) if config.adapter.kind == FULL else attach(base, _lora(config))
    )


def save_trained(
    config: ExperimentConfig, base: BaseModel, model: Any, state: Mapping[str, Tensor],
    folder: RunFolder,
) -> None:  # fmt: skip
    """The run's result in the run folder: a PEFT adapter, or the whole model."""
    if config.adapter.kind == FULL:
        with replaced_whole(folder.model) as partial:
            save_model(base, state, partial)
    else:
        save_adapter(model, dict(state), folder.adapter)


def export_trained(
    config: ExperimentConfig, base: BaseModel, model: Any, state: Mapping[str, Tensor],
    folder: Path,
) -> None:  # fmt: skip
    """The result in a folder of the user's own."""
    if config.adapter.kind == FULL:
        save_model(base, state, folder)
    else:
        save_adapter(model, dict(state), folder)


@contextmanager
def filled_whole(folder: Path) -> Iterator[Path]:
    """A place to write into, whose files move to `folder` once everything is there.

    Raises AirtuneError (disk full, no permission) and leaves `folder` as it was, absent if it was.
    """
    from safetensors import SafetensorError

    existed = folder.exists()
    make_folder("DIR", folder)
    # Inside, so that moving stays on one disk wherever the user's folder is mounted.
    partial = folder / f".export.{os.getpid()}.partial"
    try:
        yield partial
        for entry in sorted(partial.iterdir()):
            entry.replace(folder / entry.name)
        partial.rmdir()
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not existed:
            folder.rmdir()
        if not isinstance(error, OSError | SafetensorError):
            raise
        raise AirtuneError(f"{folder} cannot be written ({error}): free some space.") from error


def _lora(config: ExperimentConfig) -> AdapterSettings:
    """The adapter section in tuning's words."""
    section = config.adapter
    targets = section.target_modules
    modules = targets if isinstance(targets, str) else tuple(targets)
    return AdapterSettings(section.rank, section.alpha, modules, section.dropout)
