"""What crosses the cut of a split model, and who turns it into bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from airtune.tuning.local import TokenBatch

NO_LABEL = -1
"""In `labels`: nothing is to be predicted here."""

Draws: TypeAlias = Callable[[], np.random.Generator]
"""Where stochastic rounding draws from; asked only where something is rounded at random."""


@dataclass(frozen=True)
class Activations:
    """What a client sends up once a step: named axes [row, token] and [row, token, hidden].

    `real` is True where there is no padding. `labels` are token ids, or `NO_LABEL`; None where
    labels stay at the client, which then says only how many there are.
    """

    values: Tensor
    real: Tensor
    labels: Tensor | None
    label_tokens: int


def batch_labels(batch: TokenBatch) -> Tensor:
    """Token ids at the label positions of a batch, `NO_LABEL` elsewhere [row, token].

    Nothing precedes a row's first token, so it is never predicted.
    """
    token_ids = torch.as_tensor(batch.token_ids, dtype=torch.long)
    wanted = torch.as_tensor(batch.label_mask, dtype=torch.bool).clone()
    wanted[:, 0] = False
    return torch.where(wanted, token_ids, NO_LABEL)


@dataclass(frozen=True)
class StepBits:
    """One client's messages across the cut in one local step [bit], in the order of their travel.

    `hidden` comes down and `hidden_gradient` goes up only where labels stay at the client.
    """

    activations: int = 0
    hidden: int = 0
    hidden_gradient: int = 0
    gradient: int = 0

    @property
    def uplink(self) -> int:
        return self.activations + self.hidden_gradient

    @property
    def downlink(self) -> int:
        return self.hidden + self.gradient


class CutLink(Protocol):
    """The codec at the cut (`airtune.update.cut.CutCodec`); only real tokens travel.

    Hidden states and gradients are [row, token, hidden]; whoever decodes them knows `real`, and
    padding comes back as zeros.
    """

    def encode_activations(self, message: Activations, draws: Draws) -> bytes: ...
    def decode_activations(self, payload: bytes) -> Activations: ...
    def encode_hidden(self, values: Tensor, real: Tensor, draws: Draws) -> bytes: ...
    def decode_hidden(self, payload: bytes, real: Tensor) -> Tensor: ...
    def encode_gradient(self, values: Tensor, real: Tensor, draws: Draws) -> bytes: ...
    def decode_gradient(self, payload: bytes, real: Tensor) -> Tensor: ...
