"""A frozen base whose matrices inside the blocks are quantised: nf4 or int8.

A product dequantises its matrix, multiplies in the dtype of its input, and drops it; the backward
pass dequantises it again, so nothing but the parts of the matrix is kept. These are the products of
a plain base; dequantising is elementwise and adds none. int8 has no outliers kept apart: they are
of inputs that are quantised as well (LLM.int8(), arXiv 2208.07339, section 3.2), which is done
without gradients alone. So bitsandbytes' own layer trains on a processor.

GPT-2 keeps its matrices as (in, out); they are quantised as (out, in), like all others, as
transformers does.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from airtune.errors import InputError
from airtune.workload.adapter_shape import matrix_paths
from airtune.workload.architecture import Decoder
from airtune.workload.quantised import INT8, NF4, QUANTISED

INSTALL = "pip install 'airtune[quant]'"
QUANTISER = "airtune.tuning.quantiser"
"""The module that imports bitsandbytes."""


class _FrozenProduct(torch.autograd.Function):
    """`x W^T + b`; `matrix` answers W (out, in) in a dtype, and is asked again by the backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, matrix: Callable[[torch.dtype], Tensor]
    ) -> Tensor:
        ctx.matrix = matrix
        return torch.nn.functional.linear(x, matrix(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        return upstream @ ctx.matrix(upstream.dtype), None, None


class QuantisedLinear(nn.Linear):
    """A frozen linear layer; its parameters are the parts of the quantised matrix, and its bias."""

    def __init__(self, shape: tuple[int, int], bias: Tensor | None, transposed: bool) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = shape
        self.was_transposed = transposed
        self.bias = None if bias is None else _frozen(bias)  # type: ignore[assignment]

    @abstractmethod
    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The matrix (out, in), dequantised."""

    def forward(self, input: Tensor) -> Tensor:
        """The product in the dtype of the input."""
        product: Tensor = _FrozenProduct.apply(input, self.bias, self.matrix)  # type: ignore[no-untyped-call]
        return product


@final
class Nf4Linear(QuantisedLinear):
    """Four bits a number; `table` is one tensor for all layers of a model."""

    scales: Tensor
    scale_of_scales: Tensor
    mean_scale: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor | None, transposed: bool, table: nn.Parameter
    ) -> None:
        from airtune.tuning.quantiser import quantised

        super().__init__((weight.shape[0], weight.shape[1]), bias, transposed)
        parts = quantised(weight, NF4)
        for name, part in parts.items():
            setattr(self, name, _frozen(part))
        self.table, self._parts = table, tuple(parts)

    def matrix(self, dtype: torch.dtype) -> Tensor:
        from airtune.tuning.quantiser import from_nf4

        parts = {name: getattr(self, name) for name in self._parts}
        return from_nf4(parts, self.table, (self.out_features, self.in_features), dtype)


@final
class Int8Linear(QuantisedLinear):
    """Eight bits a number, and a scale for every row."""

    scales: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, transposed: bool) -> None:
        from airtune.tuning.quantiser import quantised

        super().__init__((weight.shape[0], weight.shape[1]), bias, transposed)
        for name, part in quantised(weight, INT8).items():
            setattr(self, name, _frozen(part))

    def matrix(self, dtype: torch.dtype) -> Tensor:
        from airtune.tuning.quantiser import from_int8

        return from_int8(self.weight, self.scales, dtype)


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)


def is_there() -> bool:
    """Whether bitsandbytes is installed."""
    return find_spec("bitsandbytes") is not None


def require_quantiser(dtype: str) -> None:
    """Raise InputError for a quantised dtype where bitsandbytes is not installed."""
    if dtype in QUANTISED and not is_there():
        raise InputError(
            "dtype", dtype, "fp32, bf16 or fp16 without bitsandbytes", f"install it: {INSTALL}"
        )


def quantise_blocks(model: Any, architecture: Decoder, dtype: str) -> None:
    """Put quantised layers in the place of the matrices of the blocks, one after another.

    LM head, embeddings, norms, biases and projections beside the blocks stay as they are.
    """
    from airtune.tuning.quantiser import scale_table

    table = _frozen(scale_table())
    for parent, name, layer in _block_layers(model, architecture):
        transposed = not isinstance(layer, nn.Linear)
        weight = layer.weight.detach()
        weight = weight.T if transposed else weight
        if dtype == INT8:
            setattr(parent, name, Int8Linear(weight, layer.bias, transposed))
        else:
            setattr(parent, name, Nf4Linear(weight, layer.bias, transposed, table))


def _block_layers(model: Any, architecture: Decoder) -> Iterator[tuple[Any, str, Any]]:
    from transformers.pytorch_utils import Conv1D

    modules = dict(model.named_modules())
    for path, matrix in matrix_paths(architecture).items():
        if matrix.block is None:
            continue
        parent, _, name = path.rpartition(".")
        # Not kept: each layer is gone before the next one is quantised.
        layer = modules.pop(path, None)
        if type(layer) not in (nn.Linear, Conv1D):
            raise InputError(
                "model",
                f"{type(model).__name__} (whose {path} is {type(layer).__name__})",
                "one whose blocks have plain linear layers, with a quantised dtype",
            )
        yield modules[parent], name, layer


def dequantise(model: Any) -> None:
    """Put plain layers in the place of quantised ones, in the dtype of the rest of the model."""
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, QuantisedLinear):
                setattr(module, name, _plain(child, dtype))
                if hasattr(module, "fan_in_fan_out"):
                    # PEFT's word for a matrix (in, out), by which it merges.
                    module.fan_in_fan_out = child.was_transposed


def _plain(layer: QuantisedLinear, dtype: torch.dtype) -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    outputs, inputs = layer.out_features, layer.in_features
    matrix = layer.matrix(dtype)
    with torch.device("meta"):
        plain: Any = (
            Conv1D(outputs, inputs)
            if layer.was_transposed
            else nn.Linear(inputs, outputs, bias=layer.bias is not None)
        )
    plain.weight = _frozen(matrix.T.contiguous() if layer.was_transposed else matrix)
    if layer.bias is not None:
        plain.bias = layer.bias
    return cast(nn.Module, plain)
