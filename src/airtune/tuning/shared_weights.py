"""The frozen weights of one model in memory that several processes map: one copy for all of them.

Linux only (an anonymous file in memory, reached through /proc, gone with its process). Elsewhere
each process keeps a copy of its own.
"""

import os
import weakref
from typing import Any, final

import torch
from torch import Tensor

_ALIGNMENT = 64
"""As torch aligns what it allocates, so that products round alike wherever the weights lie."""


@final
class SharedWeights:
    """Owns the memory; other processes of this user find it at `path` while this one lives."""

    def __init__(self, model: Any) -> None:
        descriptor = os.memfd_create("airtune-weights")
        self.path = f"/proc/{os.getpid()}/fd/{descriptor}"
        weakref.finalize(self, os.close, descriptor)
        os.ftruncate(descriptor, _length(model))
        for parameter, place in _places(model, self.path, shared=True):
            place.copy_(parameter)
            # From here on the process's own copy of this tensor is free.
            parameter.data = place


def share_weights(model: Any) -> SharedWeights | None:
    """Move a model's frozen parameters into shared memory; None where the system, or the model,
    has none: what is trained is each process's own."""
    if not _frozen(model):
        return None
    if not hasattr(os, "memfd_create") or not os.path.isdir("/proc/self/fd"):
        return None
    return SharedWeights(model)


def map_weights(model: Any, path: str) -> None:
    """Use shared weights in place of this model's own, which must be the same."""
    for parameter, place in _places(model, path, shared=False):
        if not torch.equal(parameter, place):
            raise ValueError("the shared weights are those of another model")
        parameter.data = place


def _frozen(model: Any) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if not parameter.requires_grad]


def _length(model: Any) -> int:
    return sum(_padded(parameter) for parameter in _frozen(model))


def _padded(parameter: Tensor) -> int:
    return -(-parameter.numel() * parameter.element_size() // _ALIGNMENT) * _ALIGNMENT


def _places(model: Any, path: str, *, shared: bool) -> list[tuple[Tensor, Tensor]]:
    """Each frozen parameter with its place, in the model's order."""
    memory = torch.from_file(path, shared=shared, size=_length(model), dtype=torch.uint8)
    places, start = [], 0
    for parameter in _frozen(model):
        end = start + parameter.numel() * parameter.element_size()
        places.append((parameter, memory[start:end].view(parameter.dtype).view(parameter.shape)))
        start += _padded(parameter)
    return places
