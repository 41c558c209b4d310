"""A frozen linear layer with one pair of LoRA factors per client, all clients in one call.

Rows of the input are client after client, as many for each: `y_c = W x_c + b + s B_c A_c x_c`. The
frozen product runs once over the rows of all clients, the low-rank ones as batched products.
Dropout on the way into A is not implemented; the caller checks that there is none.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from airtune.tuning.adapter import stores_transposed, trained_parameters
from airtune.tuning.decoder_check import mixes_rows
from airtune.tuning.label_loss import BODIES
from airtune.tuning.quantised import Int8Linear, Nf4Linear, QuantisedLinear


class _StackedLora(torch.autograd.Function):
    """Saves the input once and `A x`; the frozen weight has no gradient.

    Axes: x [client * row, ..., in], a [client, rank, in], b [client, out, rank]. `matrix` answers
    the weight (in, out) in a dtype, forward and back: a quantised one is not kept between them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        matrix: Callable[[torch.dtype], Tensor],
        bias: Tensor | None,
        scale: float,
    ) -> Tensor:
        clients, width = len(a), x.shape[-1]
        rows, weight = x.reshape(-1, width), matrix(x.dtype)
        y = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
        grouped = rows.view(clients, -1, width)
        low = torch.bmm(grouped, a.mT)
        y.view(clients, -1, y.shape[-1]).baddbmm_(low, b.mT, alpha=scale)
        ctx.save_for_backward(grouped, low, a, b)
        ctx.scale, ctx.matrix = scale, matrix
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a, b = ctx.saved_tensors
        rows = upstream.reshape(-1, upstream.shape[-1])
        grouped = rows.view(len(a), -1, upstream.shape[-1])
        back = torch.bmm(grouped, b).mul_(ctx.scale)
        gradient_a = torch.bmm(back.mT, x)
        gradient_b = torch.bmm(grouped.mT, low).mul_(ctx.scale)
        gradient_x = None
        if ctx.needs_input_grad[0]:
            product = rows @ ctx.matrix(rows.dtype).mT
            product.view(x.shape).baddbmm_(back, a)
            gradient_x = product.view(*upstream.shape[:-1], x.shape[-1])
        return gradient_x, gradient_a, gradient_b, None, None, None


@final
class StackedLinear(nn.Module):
    """Replaces PEFT's LoRA layer; `lora_a` and `lora_b` are set before a call."""

    lora_a: Tensor
    lora_b: Tensor

    def __init__(self, layer: nn.Module, scale: float) -> None:
        super().__init__()
        self.layer = layer
        self.scale = scale
        self._transposed = stores_transposed(layer)

    def forward(self, x: Tensor) -> Tensor:
        """All clients' rows through the frozen matrix and each through its own factors."""
        y: Tensor = _StackedLora.apply(  # type: ignore[no-untyped-call]
            x, self.lora_a, self.lora_b, self._matrix, self.layer.bias, self.scale
        )
        return y

    def _matrix(self, dtype: torch.dtype) -> Tensor:
        """The frozen matrix (in, out); a plain one has the dtype of the model already."""
        if isinstance(self.layer, QuantisedLinear):
            return self.layer.matrix(dtype).mT
        weight: Tensor = self.layer.weight  # type: ignore[assignment]
        return weight if self._transposed else weight.mT


@contextmanager
def stacked_layers(model: Any) -> Iterator[dict[str, StackedLinear]]:
    """The PEFT model with every LoRA layer replaced for a while; layers by their module path."""
    found = {name: module for name, module in model.named_modules() if _is_lora(module)}
    layers: dict[str, StackedLinear] = {}
    try:
        for name, module in found.items():
            adapter = module.active_adapters[0]
            layers[name] = StackedLinear(module.base_layer, module.scaling[adapter])
            _put(model, name, layers[name])
        yield layers
    finally:
        for name, module in found.items():
            _put(model, name, module)


def _put(model: Any, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    model.get_submodule(parent)._modules[own] = module


def _is_lora(module: nn.Module) -> bool:
    from airtune.tuning.plain_peft import peft

    return isinstance(module, peft.tuners.lora.LoraLayer)


def refuses_stacking(model: Any) -> str:
    """Why this model's clients cannot be trained as one stack; empty where they can."""
    from transformers.pytorch_utils import Conv1D

    if any(".lora_" not in name for name in trained_parameters(model)):
        return "every parameter is trained, so that clients have no base in common"
    for name, module in model.named_modules():
        if not _is_lora(module):
            continue
        if type(module.base_layer) not in (nn.Linear, Conv1D, Nf4Linear, Int8Linear):
            return f"{name} adapts a {type(module.base_layer).__name__}"
        if any(getattr(drop, "p", 0.0) > 0 for drop in module.lora_dropout.values()):
            return "adapter.dropout is above 0"
        if len(module.active_adapters) != 1 or any(module.use_dora.values()):
            return f"{name} has more than plain LoRA"
    return _refuses_rows(model)


def _refuses_rows(model: Any) -> str:
    """Rows of a batch are clients' own: every layer must read them in order."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if type(causal).__name__ in BODIES:
        return ""
    layers = {name: module for name, module in model.named_modules() if _is_lora(module)}
    odd = mixes_rows(causal, layers) if layers else ""
    return f"{odd} does not read the rows of a batch one after another" if odd else ""
