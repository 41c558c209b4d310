"""Two operations as they are counted, since torch counts or runs them differently by device.

- Scaled dot product attention makes its two products in full (four backward, one for each operand
  that needs a gradient), as eager attention does, and keeps queries, keys, values, its mask, its
  answer and one fp32 number a query and head, as the tiled kernels do (Dao et al., arXiv
  2205.14135).
- The products of a mixture of experts take each row once through as many experts as are active.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class _Attention(torch.autograd.Function):
    """Softmax(Q K^T) V with the products of eager attention and the memory of the tiled kernels.

    Axes [row, head, token, width]; heads of keys and values may be fewer.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        key_all, value_all = _as_many_heads(key, query), _as_many_heads(value, query)
        answer = _laid_out_as(query, (query @ key_all.mT) @ value_all)
        sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, answer, sums, bias)
        return answer

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, _, _, _ = ctx.saved_tensors
        key_all, value_all = _as_many_heads(key, query), _as_many_heads(value, query)
        needs_query, needs_key, needs_value, _ = ctx.needs_input_grad
        of_query = of_key = of_value = None
        if needs_query or needs_key:
            scores = upstream[0] @ value_all.mT
            of_query = scores @ key_all if needs_query else None
            if needs_key:
                scores.mT @ query
                of_key = torch.empty_like(key)
        if needs_value:
            torch.empty((*query.shape[:-1], key.shape[-2]), device=query.device).mT.to(
                upstream[0].dtype
            ) @ upstream[0]
            of_value = torch.empty_like(value)
        return of_query, of_key, of_value, None


def _laid_out_as(query: Tensor, answer: Tensor) -> Tensor:
    """The kernel's answer has its axes in memory as the queries have theirs; what reads it next may
    need a copy."""
    if query.stride(1) < query.stride(2):
        return answer.transpose(1, 2).contiguous().transpose(1, 2)
    return answer


def _as_many_heads(tensor: Tensor, query: Tensor) -> Tensor:
    heads = query.shape[-3]
    return (
        tensor.expand(*tensor.shape[:-3], heads, *tensor.shape[-2:])
        if (tensor.shape[-3] == 1)
        else tensor.repeat_interleave(heads // tensor.shape[-3], dim=-3)
    )


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
) -> Tensor:
    """A mask of padding is turned into numbers to add, which the kernel keeps."""
    bias = None if attn_mask is None else attn_mask.to(query.dtype)
    answer: Tensor = _Attention.apply(query, key, value, bias)  # type: ignore[no-untyped-call]
    return answer


class _Experts(torch.autograd.Function):
    """Each row through one expert's matrix: x (rows, in), weight (expert, in, out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        needs_weight = ctx.needs_input_grad[1]
        ctx.save_for_backward(x if needs_weight else None, weight)
        return x @ weight[0]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad
        if needs_weight:
            x.mT @ upstream[0]
        return (
            upstream[0] @ weight[0].mT if needs_x else None,
            torch.empty_like(weight) if needs_weight else None,
        )


def _experts(x: Tensor, weight: Tensor, **_: Any) -> Tensor:
    answer: Tensor = _Experts.apply(x, weight)  # type: ignore[no-untyped-call]
    return answer


class _Conditions(TorchDispatchMode):
    """Answers False to a model's questions about values, which tensors without numbers have not.

    They are about padding ("are all tokens real?"), and training pads. A question about a number
    stays an error.
    """

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        asked = function is torch.ops.aten._local_scalar_dense.default
        if asked and args[0].is_meta and args[0].dtype is torch.bool:
            return False
        return function(*args, **(kwargs or {}))


@contextmanager
def countable() -> Iterator[None]:
    """Attention and experts replaced; `create=True`, since older torch has no grouped product."""
    functional = torch.nn.functional
    with (
        _Conditions(),  # type: ignore[no-untyped-call]
        patch.object(functional, "scaled_dot_product_attention", _attention),
        patch.object(functional, "grouped_mm", _experts, create=True),
    ):
        yield
