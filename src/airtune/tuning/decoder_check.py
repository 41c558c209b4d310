"""What airtune takes for granted of the families that it knows, tried out on any other model.

A few tokens are run through the loaded model: no answer may depend on later tokens, and where
clients are to be trained as one stack, each adapted layer must read the rows of a batch in order.
"""

from typing import Any

import torch
from torch import Tensor, nn

from airtune.errors import InputError, foreign_input

_TOKENS = 6
_TOLERANCE = 1e-3
"""Of the largest value: far above rounding in bf16, far below what another token changes."""


def refuse_lookahead(name: str, model: Any) -> None:
    """Refuse a model whose answer at a token depends on the tokens after it.

    Raises InputError, also where the model cannot be run at all.
    """
    ids = _ids(model, rows=1)
    later = ids.clone()
    later[:, -1] += 1
    remedy = "check that its files are whole"
    with foreign_input("model", name, "one that runs on a few tokens", remedy), torch.no_grad():
        first, second = (_logits(model, tokens)[:, :-1] for tokens in (ids, later))
    if not _alike(first, second):
        raise InputError(
            "model",
            name,
            "a causal language model, whose answers do not depend on later tokens",
            "this one looks ahead: of a model made for both directions, set is_decoder: true in "
            "its config.json, or choose another model",
        )


def mixes_rows(model: Any, layers: dict[str, nn.Module]) -> str:
    """The first of these layers that does not read a batch row after row; empty where all do.

    A row is run alone and as the second of two, whose own part of a layer's input must be the same.
    """
    ids = _ids(model, rows=2)
    with torch.no_grad():
        both, alone = _inputs(model, layers, ids), _inputs(model, layers, ids[1:])
    for name in layers:
        pair, single = both.get(name), alone.get(name)
        if pair is None or single is None or pair.numel() != 2 * single.numel():
            return name
        rows = pair.reshape(2, -1, pair.shape[-1])[1]
        if not _alike(rows, single.reshape(rows.shape)):
            return name
    return ""


def _ids(model: Any, rows: int) -> Tensor:
    """Different tokens, from the first of the vocabulary on [row, token]."""
    device = next(model.parameters()).device
    count = int(model.get_input_embeddings().weight.shape[0]) - 1
    return (torch.arange(rows * _TOKENS, device=device) % count).view(rows, _TOKENS)


def _logits(model: Any, ids: Tensor) -> Tensor:
    mask = torch.ones_like(ids)
    logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits.float()


def _alike(one: Tensor, other: Tensor) -> bool:
    scale = float(one.abs().max()) or 1.0
    return float((one - other).abs().max()) <= _TOLERANCE * scale


def _inputs(model: Any, layers: dict[str, nn.Module], ids: Tensor) -> dict[str, Tensor]:
    """What each layer reads in one forward pass, calls one after another."""
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0]))
        for name, layer in layers.items()
    ]
    try:
        _logits(model, ids)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: torch.cat([x.reshape(-1, x.shape[-1]) for x in xs]) for name, xs in seen.items() if xs
    }
