"""Finding a block's matrices in a Hugging Face model, with or without PEFT around them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from airtune.tuning.adapter import AdapterState, load_state, read_state
from airtune.workload.architecture import Architecture
from airtune.workload.block import Linear


def block_matrix(model: Any, architecture: Architecture, block: int, linear: Linear) -> Any:
    """The module of one block matrix: PEFT's LoRA layer where it is adapted, else the plain one."""
    path = f"{architecture.structure.block_path}.{block}.{linear.name}"
    return model.get_base_model().get_submodule(path)


def base_layer(matrix: Any) -> Any:
    """The frozen layer itself, without LoRA around it."""
    return getattr(matrix, "base_layer", matrix)


def stores_transposed(layer: Any) -> bool:
    """Whether the layer keeps its weight as (in, out), as GPT-2's Conv1D does."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)


def effective_weight(matrix: Any) -> Tensor:
    """`W + sum over active adapters of (alpha / rank) B A` as (out, in), fp64, on the processor,
    so that whoever ranks its rows ranks them alike."""
    layer = base_layer(matrix)
    weight: Tensor = layer.weight.detach().cpu()
    weight = (weight.T if stores_transposed(layer) else weight).to(torch.float64)
    for name in getattr(matrix, "active_adapters", ()):
        if name in matrix.lora_A:
            a = matrix.lora_A[name].weight.detach().to("cpu", torch.float64)
            b = matrix.lora_B[name].weight.detach().to("cpu", torch.float64)
            weight = weight + matrix.scaling[name] * (b @ a)
    return weight


@contextmanager
def adapter_loaded(model: Any, state: AdapterState) -> Iterator[None]:
    """The model with this adapter for a while, and then with its own again."""
    before = read_state(model)
    load_state(model, state)
    try:
        yield
    finally:
        load_state(model, before)
