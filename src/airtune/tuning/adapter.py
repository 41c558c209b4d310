"""LoRA adapters on a frozen base, in and out as standard PEFT folders; or every parameter trained.

An adapter's state maps PEFT's tensor names to fp32 tensors: `lora_A` is (rank, in), `lora_B` is
(out, rank), and the adapted layer computes `W x + (alpha / rank) B A x` (Hu et al., LoRA,
arXiv 2106.09685, section 4.1). Dropout masks come from the processor's generator, so that a GPU
drops the same entries.

With full tuning the state maps the names that transformers gives the parameters to fp32 tensors,
tied ones once (`torch.nn.Module.named_parameters` lists a tensor under its first name only), in the
place of an adapter's tensors. Nothing is frozen, so nothing is shared between the copies of a
model. Dropout is off, as in all training here.
"""

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from airtune.errors import InputError, foreign_input
from airtune.files import write_bytes_atomic, write_text_atomic
from airtune.seeds import generator
from airtune.tuning.base_model import BaseModel, write_model
from airtune.tuning.quantised import QuantisedLinear, dequantise
from airtune.workload.adapter_shape import ALL_LINEAR
from airtune.workload.architecture import Architecture
from airtune.workload.block import Linear
from airtune.workload.counting.module import adaptable, has_experts

_A, _B = ".lora_A.", ".lora_B."


@dataclass(frozen=True)
class FactorPair:
    """An adapted matrix and the names of its factors: `dW = B A`, A (rank, in), B (out, rank)."""

    matrix: str
    lora_a: str
    lora_b: str


def factor_pairs(names: Iterable[str]) -> tuple[FactorPair, ...]:
    """The adapted matrices in the order of their names, from state or parameter names.

    Client and server must agree on the order, and a mapping's own order changes on its way through
    a file. Raises InputError for a tensor whose partner is missing, or that is no LoRA factor.
    """
    return _pairs(tuple(names))


@lru_cache(maxsize=64)
def _pairs(names: tuple[str, ...]) -> tuple[FactorPair, ...]:
    # Kept, since pairing a hundred names takes as long as the norms of their tensors.
    known = set(names)
    for name in names:
        partner = name.replace(_A, _B) if _A in name else name.replace(_B, _A)
        if partner == name or partner not in known:
            raise InputError("adapter", name, "one of a pair of LoRA factors, lora_A and lora_B")
    return tuple(
        FactorPair(name.partition(_A)[0], name, name.replace(_A, _B))
        for name in sorted(names)
        if _A in name
    )


@final
class HostDropout(nn.Dropout):
    """Entries are zeroed with probability p, the others divided by 1 - p, while training.

    The mask comes from torch's generator of the processor, which training has seeded; on the
    processor these are the bits of `nn.Dropout`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The input with entries dropped, in any shape."""
        if not self.training or self.p == 0.0:
            return input
        kept = torch.empty(input.shape, dtype=input.dtype).bernoulli_(1.0 - self.p)
        return input * kept.div_(1.0 - self.p).to(input.device)


def draw_dropout_on_host(model: Any) -> None:
    """Put it in the place of every LoRA dropout of a PEFT model."""
    for name, module in model.named_modules():
        if name.endswith(".lora_dropout"):
            for adapter, dropout in module.items():
                if isinstance(dropout, nn.Dropout):
                    module[adapter] = HostDropout(dropout.p)


AdapterState: TypeAlias = dict[str, Tensor]

_ADAPTER_NAME = "default"


@dataclass(frozen=True)
class AdapterSettings:
    """Rank, scale alpha (None: twice the rank), the adapted modules and LoRA dropout.

    The patterns give matrices whose path ends with a name a rank or an alpha of their own.
    """

    rank: int = 8
    alpha: float | None = None
    target_modules: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0
    rank_pattern: tuple[tuple[str, int], ...] = ()
    alpha_pattern: tuple[tuple[str, float], ...] = ()

    @property
    def scale_alpha(self) -> float:
        """The alpha in force."""
        return 2.0 * self.rank if self.alpha is None else self.alpha


def attach(base: BaseModel, settings: AdapterSettings) -> Any:
    """Wrap the base in a PEFT model with an adapter of zeros; `load_state` fills it.

    Raises InputError for target modules that the model does not have.
    """
    from airtune.tuning.plain_peft import peft, without_bitsandbytes

    targets = linear_targets(base.model, settings.target_modules)
    config = peft.LoraConfig(
        r=settings.rank,
        # peft divides alpha by r again; an integral alpha keeps adapter_config.json conventional.
        lora_alpha=_integral(settings.scale_alpha),
        target_modules=targets if isinstance(targets, str) else list(targets),
        lora_dropout=settings.dropout,
        rank_pattern=dict(settings.rank_pattern),
        alpha_pattern={name: _integral(alpha) for name, alpha in settings.alpha_pattern},
        bias="none",
        task_type=peft.TaskType.CAUSAL_LM,
        fan_in_fan_out=False,
    )
    try:
        with warnings.catch_warnings(), without_bitsandbytes():
            # peft corrects fan_in_fan_out by itself for GPT-2's Conv1D, and warns that it did.
            warnings.simplefilter("ignore")
            model = peft.get_peft_model(base.model, config, adapter_name=_ADAPTER_NAME)
    except ValueError as error:
        raise InputError(
            "adapter.target_modules",
            str(settings.target_modules),
            "names of linear layers of this model that PEFT adapts",
            f"PEFT says: {str(error).splitlines()[0]}",
        ) from error
    draw_dropout_on_host(model)
    model.peft_config[_ADAPTER_NAME].base_model_name_or_path = base.name
    for parameter in trained_parameters(model).values():
        parameter.data = parameter.data.to(base.model.device, torch.float32)
    set_evaluation_mode(model)
    return model


def linear_targets(model: Any, asked: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """`all-linear` means linear layers. In a mixture of experts PEFT would add the experts, which
    transformers holds as parameters: there, the linear layers are named."""
    if asked != ALL_LINEAR or not has_experts(model):
        return asked
    return tuple(dict.fromkeys(path.rpartition(".")[2] for path in adaptable(model)))


def _integral(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def set_evaluation_mode(model: Any) -> None:
    """No dropout anywhere; `training.local` switches LoRA's own dropout on where asked."""
    model.eval()


def trained_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters in module order, under the names PEFT saves them by.

    Of a model without an adapter, whatever is not frozen, a tied tensor once.
    """
    marker = f".{_ADAPTER_NAME}."
    return {
        name.replace(marker, "."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def initial_state(model: Any, seed: int) -> AdapterState:
    """A drawn as PEFT's default draws it (uniform in ±1/sqrt(in)), B zero: the change starts at 0.

    Drawn from (seed, "adapter"), so the start does not depend on torch's global generator. A
    parameter that is no factor starts as the model has it: call this before training.
    """
    draws = generator(seed, "adapter")
    state: AdapterState = {}
    for name, parameter in trained_parameters(model).items():
        if ".lora_A." in name:
            bound = 1.0 / math.sqrt(parameter.shape[1])
            values = draws.uniform(-bound, bound, size=tuple(parameter.shape))
            state[name] = torch.from_numpy(values).to(torch.float32)
        elif ".lora_B." in name:
            state[name] = torch.zeros(parameter.shape, dtype=torch.float32)
        else:
            state[name] = parameter.detach().to("cpu", torch.float32, copy=True)
    return state


def read_state(model: Any) -> AdapterState:
    """A copy, on the processor, of the adapter that the model holds."""
    return {
        name: parameter.detach().to("cpu", torch.float32, copy=True)
        for name, parameter in trained_parameters(model).items()
    }


def load_state(model: Any, state: AdapterState) -> None:
    """Put an adapter into the model; names and shapes must match exactly."""
    parameters = trained_parameters(model)
    if parameters.keys() != state.keys():
        odd = sorted(parameters.keys() ^ state.keys())[0]
        raise InputError("adapter", odd, "made of the same tensors as this model's adapter")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != state[name].shape:
                raise InputError(
                    "adapter",
                    f"{name} of shape {tuple(state[name].shape)}",
                    f"of shape {tuple(parameter.shape)}",
                    "use the same rank and target modules",
                )
            parameter.copy_(state[name])


def save_adapter(
    model: Any,
    state: AdapterState,
    folder: Path,
    stated: Mapping[str, tuple[int, float]] = MappingProxyType({}),
) -> None:
    """Write a standard PEFT adapter folder; each file is replaced whole or not at all.

    `stated`: rank and alpha of every matrix, by its path, where they are not the model's own.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    config = model.peft_config[_ADAPTER_NAME].to_dict()
    config["inference_mode"] = True
    config["target_modules"] = _sorted_names(config["target_modules"])
    if stated:
        config["rank_pattern"] = {path: rank for path, (rank, _) in stated.items()}
        config["alpha_pattern"] = {path: alpha for path, (_, alpha) in stated.items()}
    write_text_atomic(
        folder / "adapter_config.json", json.dumps(config, indent=2, default=_plain) + "\n"
    )
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    write_bytes_atomic(
        folder / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"})
    )


def _sorted_names(targets: object) -> object:
    """peft keeps a set, whose order changes from process to process."""
    return sorted(targets) if isinstance(targets, set | list | tuple) else targets


def _plain(value: object) -> object:
    return sorted(value, key=str) if isinstance(value, set | frozenset) else str(value)


def read_adapter(folder: Path) -> AdapterState:
    """The tensors of a PEFT adapter folder, for a warm start."""
    from safetensors.torch import load_file

    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        remedy = "adapter_model.bin is a pickle, which may run code: load and save it with PEFT"
        raise InputError(
            "adapter.start",
            str(folder),
            "a PEFT adapter folder (adapter_model.safetensors)",
            remedy if pickled else "",
        )
    with foreign_input("adapter.start", str(path), "a whole safetensors file"):
        tensors = load_file(path)
    return {name: tensor.to(torch.float32) for name, tensor in tensors.items()}


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
    so that client and server rank its rows alike."""
    layer = base_layer(matrix)
    if isinstance(layer, QuantisedLinear):
        weight: Tensor = layer.matrix(torch.float32).cpu()
    else:
        weight = layer.weight.detach().cpu()
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


def train_every_parameter(base: BaseModel) -> Any:
    """The base's own model, nothing of it frozen; it starts as it was loaded."""
    base.model.requires_grad_(True)
    return base.model


def merged(model: Any) -> Any:
    """The model with its adapter merged into plain weights; of a quantised base, dequantised ones.

    The PEFT model is used up.
    """
    from airtune.tuning.plain_peft import without_bitsandbytes

    dequantise(model)
    with without_bitsandbytes():
        return model.merge_and_unload()


def save_model(base: BaseModel, state: Mapping[str, Tensor], folder: Path) -> None:
    """Put the state into the model, and write the folder that `from_pretrained` loads."""
    load_state(base.model, dict(state))
    write_model(base.model, base.tokenizer, folder)
