"""A pruned client's model: really smaller matrices, everything else shared with the whole model.

The modules are new objects, so attributes that change (widths, heads) change on them only;
embeddings, norms, the LM head and every matrix that is kept whole are the same tensors. The
residual width stays, and so does `head_dim`, hence rotary tables, query and key norms, and the
config, which goes on describing the whole model.
"""

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.tuning.block_matrix import base_layer, block_matrix, stores_transposed
from airtune.tuning.pruning.slice import Cut, KeptBlock, Slice, matrix_cut, take
from airtune.workload.block import Linear, Role

_ATTENTION_ROLES = (Role.QUERY, Role.FUSED_QKV)


def sliced_model(model: Any, part: Slice) -> Any:
    """A PEFT model of the kept units only, with sliced LoRA factors under the same names.

    `model` is left as it was; training the answer does not touch it, adapter included.
    Raises InputError for a model whose attention is not as its architecture says.
    """
    twin = _detached_twin(model)
    for index, kept in enumerate(part.blocks):
        for linear in part.architecture.structure.linears:
            matrix = block_matrix(twin, part.architecture, index, linear)
            cut = matrix_cut(linear, kept, part.architecture.widths)
            _cut_matrix(matrix, cut)
            if linear.role in _ATTENTION_ROLES:
                _resize_attention(twin, part, index, linear, kept)
    for module in twin.modules():
        _own_trainables(module)
    return twin


def low_rank_model(model: Any, rank: int) -> Any:
    """A PEFT model with the first `rank` ranks of every LoRA factor, under the same names.

    Scales (alpha / rank) stay those of the whole adapter; `model` is left as it was.
    """
    twin = _detached_twin(model)
    for matrix in twin.modules():
        for factor in getattr(matrix, "lora_A", {}).values():
            _replace(factor, "weight", lambda a: a[:rank])
            factor.out_features = factor.weight.shape[0]
        for factor in getattr(matrix, "lora_B", {}).values():
            _replace(factor, "weight", lambda b: b[:, :rank])
            factor.in_features = factor.weight.shape[1]
    for module in twin.modules():
        _own_trainables(module)
    return twin


def _detached_twin(model: Any) -> Any:
    """The same model as another tree of modules."""
    seen: dict[int, Any] = {}
    twin = _twin(model, seen)
    for module in seen.values():
        _rebind_methods(module, seen)
    return twin


def _twin(module: Any, seen: dict[int, Any]) -> Any:
    """A new tree of modules over the same tensors; a module met twice stays one."""
    if id(module) not in seen:
        twin = copy.copy(module)
        # Tables of parameters, children, buffers, hooks and LoRA scales are the twin's own.
        tables = {name: copy.copy(x) for name, x in vars(module).items() if isinstance(x, dict)}
        vars(twin).update(tables)
        seen[id(module)] = twin
        for name, child in module._modules.items():
            if child is not None:
                twin._modules[name] = _twin(child, seen)
    return seen[id(module)]


def _rebind_methods(twin: Any, seen: dict[int, Any]) -> None:
    """Methods kept as attributes (PEFT keeps some) would hold on to, and run, the whole model."""
    for name, value in vars(twin).items():
        if isinstance(value, MethodType) and id(value.__self__) in seen:
            vars(twin)[name] = MethodType(value.__func__, seen[id(value.__self__)])


def _cut_matrix(matrix: Any, cut: Cut) -> None:
    layer = base_layer(matrix)
    transposed = stores_transposed(layer)
    in_storage = Cut(cut.columns, cut.rows) if transposed else cut
    _replace(layer, "weight", lambda weight: take(weight, in_storage))
    if layer.bias is not None:
        _replace(layer, "bias", lambda bias: take(bias, Cut(cut.rows)))
    outputs, inputs = layer.weight.shape[::-1] if transposed else layer.weight.shape
    if transposed:
        layer.nf, layer.nx = outputs, inputs
    for owner in {id(layer): layer, id(matrix): matrix}.values():
        if hasattr(owner, "in_features"):
            owner.in_features, owner.out_features = inputs, outputs
    if matrix is not layer:
        for factor in matrix.lora_A.values():
            _replace(factor, "weight", lambda a: take(a, Cut(columns=cut.columns)))
            factor.in_features = inputs
        for factor in matrix.lora_B.values():
            _replace(factor, "weight", lambda b: take(b, Cut(rows=cut.rows)))
            factor.out_features = outputs


def _replace(layer: Any, name: str, change: Callable[[Tensor], Tensor]) -> None:
    """Put the changed tensor in the parameter's place; an unchanged one stays the same object."""
    old = layer._parameters[name]
    new = change(old.detach())
    if new.shape != old.shape:
        layer._parameters[name] = torch.nn.Parameter(new, requires_grad=old.requires_grad)


def _resize_attention(twin: Any, part: Slice, index: int, linear: Linear, kept: KeptBlock) -> None:
    """Set what attention modules keep about widths and read in their forward pass."""
    widths = part.architecture.widths
    path = f"{part.architecture.structure.block_path}.{index}.{linear.name}"
    attention = twin.get_base_model().get_submodule(path.rpartition(".")[0])
    if attention.head_dim != widths.head_dim:
        raise InputError(
            "config.head_dim", widths.head_dim, f"{attention.head_dim}, as in the model itself"
        )
    heads, key_value_heads = len(kept.query_heads), len(kept.key_value_heads)
    sizes = {
        "num_heads": heads,
        "num_key_value_groups": heads // key_value_heads,
        "split_size": heads * widths.head_dim,
    }
    for name, size in sizes.items():
        if hasattr(attention, name):
            setattr(attention, name, size)


def _own_trainables(module: Any) -> None:
    """Trainable tensors get storage of their own, or the whole model would be trained along."""
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.requires_grad:
            module._parameters[name] = torch.nn.Parameter(parameter.detach().clone())
