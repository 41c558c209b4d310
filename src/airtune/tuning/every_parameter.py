"""Full tuning: every parameter of the model is trained, and what comes out is a model.

The state maps the names that transformers gives the parameters to fp32 tensors, tied ones once
(`torch.nn.Module.named_parameters` lists a tensor under its first name only), in the place of an
adapter's tensors. Nothing is frozen, so nothing is shared between the copies of a model. Dropout
is off, as in all training here.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from airtune.errors import AirtuneError
from airtune.tuning.adapter import load_state
from airtune.tuning.base_model import BaseModel, quiet_bars


def train_every_parameter(base: BaseModel) -> Any:
    """The base's own model, nothing of it frozen; it starts as it was loaded."""
    base.model.requires_grad_(True)
    return base.model


def save_model(base: BaseModel, state: Mapping[str, Tensor], folder: Path) -> None:
    """Put the state into the model, and write the folder that `from_pretrained` loads."""
    load_state(base.model, dict(state))
    with quiet_bars():
        base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)


@contextmanager
def replaced_whole(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of `folder` once everything is there.

    Raises AirtuneError (disk full, no permission) and leaves the old folder as it was.
    """
    from safetensors import SafetensorError

    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        yield partial
        if folder.exists():
            shutil.rmtree(folder)
        partial.replace(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise AirtuneError(
            f"{folder} cannot be written ({error}): free some space, and run `airtune resume`."
        ) from error
