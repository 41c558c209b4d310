"""Many clients' adapters, gradients and optimiser moments as rows of one matrix.

A row is one client's whole adapter, its factors one after another in the model's order, so that
clipping, the optimiser and what a client carries over are those of each client for itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.tuning.adapter import AdapterState, trained_parameters
from airtune.tuning.local import TrainingSettings, make_optimizer

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
        self.values = torch.stack([_row(layout, start) for start in starts]).to(device)
        self.gradient = torch.zeros_like(self.values)
        self._rows = list(self.values.unbind())
        for row, gradient in zip(self._rows, self.gradient.unbind(), strict=True):
            row.grad = gradient
        self._optimizer = make_optimizer(self._rows, settings, fused=True)
        if settings.keep_optimizer:
            for row, kept in zip(self._rows, carried, strict=True):
                if kept:
                    self._optimizer.state[row] = _joined(layout, kept, device)

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


def _joined(layout: Layout, kept: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Moments of single factors as those of one row; their step counts are one and the same."""
    state: dict[str, Tensor] = {}
    for entry in dict.fromkeys(key.partition(".")[2] for key in kept):
        parts = [kept[f"{index}.{entry}"] for index in range(len(layout.names))]
        whole = (
            parts[0].clone() if parts[0].dim() == 0 else torch.cat([p.reshape(-1) for p in parts])
        )
        state[entry] = whole.to(device)
    return state
