"""A frozen base that changes between rounds: what was merged into it, beside the adapter.

Some methods merge products `B A` into the base after a round. The sum of all that was merged into a
matrix, without the scale alpha / rank, is a tensor (out, in) of the server's state, fp32, named
`<matrix>.base_change` beside the matrix's factors. The adapted layer then computes
`(W + s C) x + s B A x`, C the change and s the scale. The state as a whole is what is evaluated,
kept in checkpoints and exported.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from airtune.tuning.adapter import (
    AdapterState,
    FactorPair,
    base_layer,
    factor_pairs,
    load_state,
    stores_transposed,
)

_CHANGE = ".base_change"
_ORIGINAL = "_weight_before_changes"


def change_name(pair: FactorPair) -> str:
    """The name of the change of this pair's matrix."""
    return pair.matrix + _CHANGE


def factors_of(state: Mapping[str, Tensor]) -> AdapterState:
    """The adapter alone, of a state that may hold changes of the base."""
    return {name: tensor for name, tensor in state.items() if not name.endswith(_CHANGE)}


def changes_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The changes of the base alone; none for a method that leaves the base as it is."""
    return {name: tensor for name, tensor in state.items() if name.endswith(_CHANGE)}


def with_no_change(factors: Mapping[str, Tensor]) -> AdapterState:
    """The adapter on a base that nothing was merged into yet."""
    zeros = {
        change_name(pair): torch.zeros(len(factors[pair.lora_b]), factors[pair.lora_a].shape[1])
        for pair in factor_pairs(factors)
    }
    return {**factors, **zeros}


def load_whole(model: Any, state: Mapping[str, Tensor]) -> None:
    """Put the adapter into the model, and what was merged into the base into the base."""
    put_changes(model, changes_of(state))
    load_state(model, factors_of(state))


def put_changes(model: Any, changes: Mapping[str, Tensor]) -> None:
    """Give every adapted matrix the weight `W + s C`, W as it was loaded.

    The weights that processes share stay as they are: a changed one is this process's own.
    """
    for name, change in changes.items():
        layer = model.get_submodule(name.removesuffix(_CHANGE))
        weight, known = base_layer(layer).weight, vars(base_layer(layer))
        if _ORIGINAL not in known:
            if not change.any():
                continue
            known[_ORIGINAL] = weight.data
        original = known[_ORIGINAL]
        scaled = _scale(layer) * change.to(original.device)
        weight.data = original + (scaled.T if stores_transposed(base_layer(layer)) else scaled)


@contextmanager
def changed_base(model: Any, changes: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with these changes merged into its base for a while; it had none before."""
    put_changes(model, changes)
    try:
        yield
    finally:
        put_changes(model, {name: torch.zeros_like(change) for name, change in changes.items()})


def _scale(layer: Any) -> float:
    return float(layer.scaling[layer.active_adapters[0]])


def plain_adapter(
    model: Any, state: Mapping[str, Tensor]
) -> tuple[AdapterState, dict[str, tuple[int, float]]]:
    """An adapter of the base as it was loaded that computes what the state does.

    `C + B A` of each matrix by its singular value decomposition, at its numerical rank in fp32:
    factors, and by the matrix's path its rank and the alpha that keeps the scale. A state without
    changes is its own adapter, with no rank or alpha to state.
    """
    changes, factors = changes_of(state), factors_of(state)
    if not changes:
        return factors, {}
    made: AdapterState = {}
    stated: dict[str, tuple[int, float]] = {}
    for pair in factor_pairs(factors):
        product = factors[pair.lora_b].double() @ factors[pair.lora_a].double()
        whole = changes[change_name(pair)].double() + product
        left, values, right = torch.linalg.svd(whole, full_matrices=False)
        noise = values[0] * max(whole.shape) * torch.finfo(torch.float32).eps
        rank = max(int((values > noise).sum()), 1)
        root = values[:rank].sqrt()
        made[pair.lora_a] = (root[:, None] * right[:rank]).float()
        made[pair.lora_b] = (left[:, :rank] * root).float()
        path = pair.matrix.removeprefix("base_model.model.")
        stated[path] = rank, _scale(model.get_submodule(pair.matrix)) * rank
    return {name: made[name] for name in factors}, stated
