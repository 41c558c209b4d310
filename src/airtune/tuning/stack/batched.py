"""Many clients on one frozen base: one forward and backward for all, one optimiser over the stack.

The slow plain twin is `train_locally`, once per client. Both give the same numbers up to rounding:
every client has its own factors, its own mean loss over its own label tokens, its own clipping and
its own optimiser moments; what is shared is the frozen product. LoRA dropout is not among what is
done here (`refuses_stacking` says so).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from airtune.tuning.adapter import AdapterState
from airtune.tuning.label_loss import TOKENS_AT_ONCE, label_losses
from airtune.tuning.local import LocalResult, Penalty, TokenBatch, TrainingSettings
from airtune.tuning.stack.adapter_stack import AdapterStack, Layout
from airtune.tuning.stack.stacked_linear import StackedLinear, stacked_layers

WORTHWHILE_SORTING = 0.9


def train_stacked(
    model: Any,
    starts: Sequence[AdapterState],
    batches: Sequence[Sequence[TokenBatch]],
    settings: TrainingSettings,
    carried: Sequence[Mapping[str, Tensor]],
    penalty: Penalty | None = None,
) -> list[LocalResult]:
    """Train clients side by side, all with as many steps; arguments have the axis [client].

    `penalty` gets every factor with a leading axis [client] and answers with the sum over clients.
    The model's own adapter is neither read nor changed.
    """
    steps = {len(own) for own in batches}
    assert len(steps) == 1, "clients of a stack take the same number of steps"
    device = next(model.parameters()).device
    stack = AdapterStack(Layout.of(model), starts, carried, settings, device)
    losses: list[list[float]] = [[] for _ in starts]
    label_tokens = [0] * len(starts)
    with stacked_layers(model) as layers:
        for step in range(steps.pop()):
            current = [own[step] for own in batches]
            for clients in passes(current, TOKENS_AT_ONCE[device.type]):
                found = _one_pass(model, layers, stack, clients, [current[c] for c in clients])
                for client, loss, count in zip(clients, *found, strict=True):
                    losses[client].append(loss)
                    label_tokens[client] += count
            if penalty is not None:
                _add_penalty(stack, penalty)
            stack.step()
    return [
        LocalResult(stack.state(c), tuple(losses[c]), label_tokens[c], stack.moments(c))
        for c in range(len(starts))
    ]


def passes(batches: Sequence[TokenBatch], limit: int) -> list[list[int]]:
    """Which clients share a forward pass: about `limit` tokens each, padding included.

    Clients of like length go together where that saves padding; else neighbours do, whose factors
    need no copying.
    """
    rows = max(len(batch.token_ids) for batch in batches)
    lengths = [batch.token_ids.shape[1] for batch in batches]
    neighbours = _cut(list(range(len(batches))), lengths, limit // rows)
    alike = _cut(sorted(range(len(batches)), key=lengths.__getitem__), lengths, limit // rows)
    saved = _padded(alike, lengths) < WORTHWHILE_SORTING * _padded(neighbours, lengths)
    return alike if saved else neighbours


def _cut(order: list[int], lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Consecutive groups of at most `limit` padded tokens a row, at least one client each, evenly
    sized where that needs no more groups."""
    groups = _greedy(order, lengths, limit)
    even = -(-len(order) // len(groups)) * max(lengths)
    evener = _greedy(order, lengths, min(limit, even))
    return evener if len(evener) == len(groups) else groups


def _greedy(order: list[int], lengths: Sequence[int], limit: int) -> list[list[int]]:
    groups: list[list[int]] = []
    longest = 0
    for client in order:
        longest = max(longest, lengths[client])
        if groups and (len(groups[-1]) + 1) * longest <= limit:
            groups[-1].append(client)
        else:
            groups.append([client])
            longest = lengths[client]
    return groups


def _padded(groups: list[list[int]], lengths: Sequence[int]) -> int:
    return sum(len(group) * max(lengths[client] for client in group) for group in groups)


def _one_pass(
    model: Any,
    layers: Mapping[str, StackedLinear],
    stack: AdapterStack,
    clients: list[int],
    batches: Sequence[TokenBatch],
) -> tuple[list[float], list[int]]:
    """Leave these clients' gradients in the stack; their mean losses and label counts."""
    device, dtype = stack.values.device, next(model.parameters()).dtype
    factors = {
        name: view.detach().to(dtype).requires_grad_()
        for name, view in stack.layout.factors(_rows(stack.values, clients)).items()
    }
    for path, layer in layers.items():
        layer.lora_a = factors[f"{path}.lora_A.weight"]
        layer.lora_b = factors[f"{path}.lora_B.weight"]
    token_ids, real, wanted = (torch.from_numpy(x).to(device) for x in _joined(batches))
    token_losses = label_losses(model, token_ids, real, wanted)
    counts = wanted.view(len(clients), -1).sum(dim=1)
    owner = torch.repeat_interleave(torch.arange(len(clients), device=device), counts)
    sums = torch.zeros(len(clients), device=device).index_add(0, owner, token_losses)
    means = sums / counts
    gradients = torch.autograd.grad(means.sum(), list(factors.values()))
    into = stack.layout.factors(stack.gradient)
    for name, gradient in zip(factors, gradients, strict=True):
        _put(into[name], clients, gradient)
    return means.detach().tolist(), counts.tolist()


def _consecutive(clients: list[int]) -> bool:
    return clients == list(range(clients[0], clients[0] + len(clients)))


def _rows(values: Tensor, clients: list[int]) -> Tensor:
    """A view of neighbours, a copy of others."""
    if _consecutive(clients):
        return values[clients[0] : clients[0] + len(clients)]
    return values[torch.tensor(clients, device=values.device)]


def _put(into: Tensor, clients: list[int], value: Tensor) -> None:
    if _consecutive(clients):
        into[clients[0] : clients[0] + len(clients)].copy_(value)
    else:
        into[torch.tensor(clients, device=into.device)] = value.to(into.dtype)


def _joined(
    batches: Sequence[TokenBatch],
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Token ids, real tokens and labels of all clients [client * row, token].

    Shorter batches are padded on the right, those of fewer rows by rows without a label.
    """
    rows = max(len(batch.token_ids) for batch in batches)
    width = max(batch.token_ids.shape[1] for batch in batches)
    token_ids = np.zeros((len(batches), rows, width), dtype=np.int64)
    real, wanted = np.zeros(token_ids.shape, np.bool_), np.zeros(token_ids.shape, np.bool_)
    for client, batch in enumerate(batches):
        own = (client, slice(len(batch.token_ids)), slice(batch.token_ids.shape[1]))
        token_ids[own], real[own] = batch.token_ids, batch.attention_mask
        # A label in column 0 has no tokens before it.
        wanted[own] = batch.label_mask
        wanted[client, :, 0] = False
        # A row without any real token would attend to nothing.
        real[client, len(batch.token_ids) :] = True
    return (
        token_ids.reshape(-1, width),
        real.reshape(-1, width),
        wanted.reshape(-1, width),
    )


def _add_penalty(stack: AdapterStack, penalty: Penalty) -> None:
    factors = {
        name: view.detach().requires_grad_()
        for name, view in stack.layout.factors(stack.values).items()
    }
    gradients = torch.autograd.grad(penalty(factors), list(factors.values()))
    into = stack.layout.factors(stack.gradient)
    for name, gradient in zip(factors, gradients, strict=True):
        into[name].add_(gradient)
