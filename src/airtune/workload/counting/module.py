"""The module that transformers makes of a config, without numbers: its sizes and its matrices."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from airtune.workload.block import Matrix
from airtune.workload.counting.sample import NotCountable

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class FoundModel:
    """What the module itself says: its sizes, its linear layers, and parameters by part.

    `parameters` has the axis [embedding, blocks.., head]; a tied tensor counts once, at its first
    name. `positions` are the rows of a table of learned positions, 0 without one.
    """

    vocab_size: int
    hidden_size: int
    block_count: int
    parameters: tuple[int, ...]
    matrices: tuple[Matrix, ...]
    positions: int
    tied: bool


def build(config: Mapping[str, Any], dtype: str = "fp32", attention: str = "sdpa") -> Any:
    """The module that `AutoModelForCausalLM` makes of a config, without numbers.

    Raises NotCountable.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    content = {key: value for key, value in config.items() if key != "model_type"}
    if not config.get("model_type"):
        raise NotCountable("it names no model_type")
    try:
        with torch.device("meta"), _quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = AutoConfig.for_model(str(config["model_type"]), **content)
            chosen = {"attn_implementation": "eager"} if attention == "eager" else {}
            model = AutoModelForCausalLM.from_config(made, dtype=_DTYPES[dtype], **chosen)
    except Exception as error:  # transformers' classes raise whatever they meet
        raise NotCountable(first_sentence(error)) from error
    return model.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers' advice on a model that is made without weights is of no use to anyone."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def first_sentence(error: Exception) -> str:
    """The first sentence of what foreign code said."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.partition(". ")[0].rstrip(".")[:200]


def describe(model: Any) -> FoundModel:
    """Sizes, matrices and parameters of a module. Raises NotCountable where it has no blocks."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(table, nn.Embedding) or not isinstance(head, nn.Linear):
        raise NotCountable("its token table or its LM head is no plain matrix")
    path, blocks = find_blocks(model)
    hidden = int(head.in_features)
    return FoundModel(
        vocab_size=int(table.num_embeddings),
        hidden_size=hidden,
        block_count=len(blocks),
        parameters=_parameters(model, path, len(blocks), head),
        matrices=tuple(_matrices(model, path, len(blocks))),
        positions=_positions(model, table),
        tied=head.weight is table.weight,
    )


def find_blocks(model: Any) -> tuple[str, Sequence[nn.Module]]:
    """The outermost list of as many modules as the config has layers, and its dotted path.

    Raises NotCountable.
    """
    count = getattr(model.config, "num_hidden_layers", None)
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return path, list(module)
    raise NotCountable("its blocks are not in one list as long as config.num_hidden_layers")


def _block_of(path: str, blocks: str) -> int | None:
    first, _, _ = path.removeprefix(f"{blocks}.").partition(".")
    return int(first) if path.startswith(f"{blocks}.") and first.isdigit() else None


def _parameters(model: Any, blocks: str, count: int, head: nn.Linear) -> tuple[int, ...]:
    numbers = [0] * (count + 2)
    last = max(
        (place for place, (name, _) in enumerate(model.named_parameters()) if _in(name, blocks)),
        default=0,
    )
    for place, (name, parameter) in enumerate(model.named_parameters()):
        block = _block_of(name, blocks)
        after = place > last or parameter is head.weight
        part = block + 1 if block is not None else (count + 1 if after else 0)
        numbers[part] += parameter.numel()
    table = model.get_input_embeddings().weight
    if head.weight is table:  # listed once, under whichever name comes first
        moved = table.numel() if numbers[count + 1] >= table.numel() else 0
        numbers[count + 1] -= moved
        numbers[0] += moved
    return tuple(numbers)


def _in(name: str, blocks: str) -> bool:
    return name.startswith(f"{blocks}.")


EXPERT_NAMES = frozenset({"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
"""Names that PEFT 0.21 takes for a mixture's experts and its router, wherever they stand."""


def has_experts(model: Any) -> bool:
    """Whether transformers holds experts as tensors of three axes, which are no linear layers."""
    named = model.named_parameters()
    return any(parameter.dim() == 3 and "expert" in name for name, parameter in named)


def adaptable(model: Any) -> dict[str, nn.Module]:
    """What LoRA on `all-linear` adapts, by path: linear layers of both kinds, the LM head aside.

    In a mixture of experts also without routers and gates of experts, which choose among tokens,
    and without layers whose names PEFT takes for the experts.
    """
    from transformers.pytorch_utils import Conv1D

    mixture = has_experts(model)
    head = model.get_output_embeddings()
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not head
        and not (mixture and _of_experts(path.rpartition(".")[2]))
    }


def _of_experts(name: str) -> bool:
    return name in EXPERT_NAMES or name.endswith("_gate") or "router" in name


def _matrices(model: Any, blocks: str, count: int) -> Iterator[Matrix]:
    chosen, passed = adaptable(model), False
    for path, module in model.named_modules():
        block = _block_of(path, blocks)
        passed = passed or block is not None
        if path not in chosen:
            continue
        weight: torch.Tensor = module.weight
        shape = weight.shape if isinstance(module, nn.Linear) else weight.T.shape
        around = blocks.rpartition(".")[0] if block is None else f"{blocks}.{block}"
        half = block if block is not None else (count - 1 if passed else 0)
        yield Matrix(path, path.removeprefix(f"{around}."), block, half, shape[1], shape[0])


def _positions(model: Any, table: nn.Module) -> int:
    """Rows of the other table beside the blocks, where a model learns its positions."""
    limit = getattr(model.config, "max_position_embeddings", None)
    rows = [
        int(module.num_embeddings)
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module is not table
    ]
    return max((count for count in rows if limit is not None and count >= limit), default=0)
