"""Full tuning: every parameter of the model is trained, and what comes out is a model.

The state maps the names that transformers gives the parameters to fp32 tensors, tied ones once
(`torch.nn.Module.named_parameters` lists a tensor under its first name only), in the place of an
adapter's tensors. Nothing is frozen, so nothing is shared between the copies of a model. Dropout
is off, as in all training here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from airtune.tuning.adapter import load_state
from airtune.tuning.base_model import BaseModel, write_model


def train_every_parameter(base: BaseModel) -> Any:
    """The base's own model, nothing of it frozen; it starts as it was loaded."""
    base.model.requires_grad_(True)
    return base.model


def save_model(base: BaseModel, state: Mapping[str, Tensor], folder: Path) -> None:
    """Put the state into the model, and write the folder that `from_pretrained` loads."""
    load_state(base.model, dict(state))
    write_model(base.model, base.tokenizer, folder)
