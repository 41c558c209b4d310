"""Many clients on one frozen base: one forward and backward for all, one optimiser over the stack.

The slow plain twin is `train_locally`, once per client. Both give the same numbers up to rounding:
every client has its own factors, its own mean loss over its own label tokens, its own clipping and
its own optimiser moments; what is shared is the frozen product. LoRA dropout is not among what is
done here (`refuses_stacking` checks it).

The clients' adapters, gradients and optimiser moments are rows of one matrix. A row is one client's
whole adapter, its factors one after another in the model's order, so that clipping, the optimiser
and what a client carries over are those of each client for itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from airtune.errors import InputError
from airtune.tuning.adapter import AdapterState, trained_parameters
from airtune.tuning.blocks import checkpointed_blocks
from airtune.tuning.label_loss import label_losses
from airtune.tuning.local import (
    LocalResult,
    Penalty,
    TokenBatch,
    TrainingSettings,
    make_optimizer,
    micro_batches,
)
from airtune.tuning.stacked_linear import StackedLinear, stacked_layers

COPIES = 4
"""Values, gradients and AdamW's two moments, in fp32."""


@dataclass(frozen=True)
class Layout:
    """Where each factor lies in a row: names as PEFT saves them, shapes, and offsets."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: Any) -> "Layout":
        """In the model's order, in which optimiser moments are numbered."""
        parameters = trained_parameters(model)
        return cls(tuple(parameters), tuple(tuple(p.shape) for p in parameters.values()))

    @property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]

    def factors(self, rows: Tensor) -> dict[str, Tensor]:
        """Views of rows [client, entry] as factors [client, *shape]."""
        parts = torch.split(rows, self.sizes, dim=-1)
        return {
            name: part.view(*rows.shape[:-1], *shape)
            for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }


@final
class AdapterStack:
    """The rows, their gradients, and one optimiser that treats each row as one client."""

    def __init__(
        self,
        layout: Layout,
        starts: Sequence[AdapterState],
        carried: Sequence[Mapping[str, Tensor]],
        settings: TrainingSettings,
        device: torch.device,
    ) -> None:
        self.layout, self._settings = layout, settings
        self.limit = settings.limit(device.type)
        self.values = torch.stack([_row(layout, start) for start in starts]).to(device)
        self.gradient = torch.zeros_like(self.values)
        self._rows = list(self.values.unbind())
        for row, gradient in zip(self._rows, self.gradient.unbind(), strict=True):
            row.grad = gradient
        self._optimizer = make_optimizer(self._rows, settings, fused=True)
        if settings.keep_optimizer:
            for row, kept in zip(self._rows, carried, strict=True):
                if kept:
                    self._optimizer.state[row] = _joined_moments(layout, kept, device)

    def step(self) -> None:
        """One optimiser step of every client, each on its own gradient, clipped by its own norm."""
        if self._settings.max_grad_norm > 0:
            norms = torch.linalg.vector_norm(self.gradient, dim=1, keepdim=True)
            # As torch.nn.utils.clip_grad_norm_ does it.
            share = (self._settings.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
            self.gradient.mul_(share)
        self._optimizer.step()
        self.gradient.zero_()

    def state(self, client: int) -> AdapterState:
        """A copy of one client's adapter."""
        factors = self.layout.factors(self.values[client])
        return {name: value.to("cpu", copy=True) for name, value in factors.items()}

    def moments(self, client: int) -> dict[str, Tensor]:
        """What the optimiser carries over, as `train_locally` names it; empty unless kept."""
        if not self._settings.keep_optimizer:
            return {}
        kept: dict[str, Tensor] = {}
        entries = {
            entry: self.layout.factors(value) if value.dim() else value
            for entry, value in self._optimizer.state[self._rows[client]].items()
            if isinstance(value, Tensor)
        }
        for index, name in enumerate(self.layout.names):
            for entry, value in entries.items():
                part = value if isinstance(value, Tensor) else value[name]
                kept[f"{index}.{entry}"] = part.to("cpu", copy=True)
        return kept


def _row(layout: Layout, state: Mapping[str, Tensor]) -> Tensor:
    if state.keys() != set(layout.names):
        odd = sorted(state.keys() ^ set(layout.names))[0]
        raise InputError("adapter", odd, "made of the same tensors as this model's adapter")
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        if tuple(state[name].shape) != shape:
            raise InputError(
                "adapter",
                f"{name} of shape {tuple(state[name].shape)}",
                f"of shape {shape}",
                "use the same rank and target modules",
            )
    return torch.cat([state[name].reshape(-1).to(torch.float32) for name in layout.names])


def _joined_moments(
    layout: Layout, kept: Mapping[str, Tensor], device: torch.device
) -> dict[str, Tensor]:
    """Moments of single factors as those of one row; their step counts are one and the same."""
    state: dict[str, Tensor] = {}
    for entry in dict.fromkeys(key.partition(".")[2] for key in kept):
        parts = [kept[f"{index}.{entry}"] for index in range(len(layout.names))]
        whole = (
            parts[0].clone() if parts[0].dim() == 0 else torch.cat([p.reshape(-1) for p in parts])
        )
        state[entry] = whole.to(device)
    return state


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
    with stacked_layers(model) as layers, checkpointed_blocks(model, settings.checkpointing):
        for step in range(steps.pop()):
            current = [own[step] for own in batches]
            if settings.micro_batches == 1:
                found = _one_step(model, layers, stack, current)
            else:
                found = _accumulated_step(model, layers, stack, current, settings.micro_batches)
            for client, (loss, count) in enumerate(found):
                losses[client].append(loss)
                label_tokens[client] += count
            if penalty is not None:
                _add_penalty(stack, penalty)
            stack.step()
    return [
        LocalResult(stack.state(c), tuple(losses[c]), label_tokens[c], stack.moments(c))
        for c in range(len(starts))
    ]


def _one_step(
    model: Any,
    layers: Mapping[str, StackedLinear],
    stack: AdapterStack,
    batches: Sequence[TokenBatch],
) -> list[tuple[float, int]]:
    """Leave every client's gradient in the stack; mean loss and label tokens of each [client]."""
    answers: dict[int, tuple[float, int]] = {}
    for clients in passes(batches, stack.limit):
        found = _one_pass(model, layers, stack, clients, [batches[c] for c in clients])
        answers |= dict(zip(clients, zip(*found, strict=True), strict=True))
    return [answers[client] for client in range(len(batches))]


def _accumulated_step(
    model: Any,
    layers: Mapping[str, StackedLinear],
    stack: AdapterStack,
    batches: Sequence[TokenBatch],
    number: int,
) -> list[tuple[float, int]]:
    """The same, a micro-batch of every client after another, each weighted by its label tokens."""
    divided = [micro_batches(batch, number) for batch in batches]
    labels = [int(batch.label_mask[:, 1:].sum()) for batch in batches]
    whole, total = torch.zeros_like(stack.gradient), [0.0] * len(batches)
    for part in range(max(map(len, divided))):
        # A client of fewer rows than micro-batches is done earlier.
        present = [client for client, own in enumerate(divided) if part < len(own)]
        for group in passes([divided[c][part] for c in present], stack.limit):
            clients = [present[index] for index in group]
            found = _one_pass(model, layers, stack, clients, [divided[c][part] for c in clients])
            for client, loss, count in zip(clients, *found, strict=True):
                share = count / labels[client]
                whole[client] += stack.gradient[client] * share
                total[client] += loss * share
    stack.gradient.copy_(whole)
    return list(zip(total, labels, strict=True))


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
    token_ids, real, wanted = (torch.from_numpy(x).to(device) for x in _joined_batches(batches))
    token_losses = label_losses(model, token_ids, real, wanted)
    counts = wanted.view(len(clients), -1).sum(dim=1)
    owner = torch.repeat_interleave(torch.arange(len(clients), device=device), counts)
    sums = torch.zeros(len(clients), device=device).index_add(0, owner, token_losses)
    # A micro-batch may have no label at all.
    means = sums / counts.clamp(min=1)
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


def _joined_batches(
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
