"""Small random models on a quantised base."""

from typing import Any

import torch

from airtune.tuning.adapter import AdapterSettings, attach
from airtune.tuning.base_model import DTYPES, BaseModel
from airtune.tuning.quantised import quantise_blocks
from airtune.workload.architecture import Architecture
from tests.models import small_model

KINDS = ("nf4", "int8")


def quantised_model(
    family: str, dtype: str, compute: str = "fp32", seed: int = 0, **config: Any
) -> Any:
    """The model of `tests.models`, its blocks quantised."""
    model = small_model(family, seed, **config).to(DTYPES[compute])
    quantise_blocks(model, Architecture.from_config(model.config.to_dict()), dtype)
    return model


def quantised_peft(
    family: str, dtype: str, compute: str = "fp32", seed: int = 0, rank: int = 3, **config: Any
) -> Any:
    """The same with an adapter, LoRA's draws the same for a seed."""
    base = quantised_model(family, dtype, compute, seed, **config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return attach(BaseModel(base, None, "random"), AdapterSettings(rank=rank))
