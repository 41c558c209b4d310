"""The codec at the cut of a split model: activations up, gradients down, as counted bytes.

Only real tokens travel, one after another [token, hidden]; their positions are a packed bitmap
[row, token], from which the other side rebuilds padding, causal mask and positions. Labels are a
second bitmap and the token ids at its places. int8 has one scale per token.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from airtune.errors import InputError
from airtune.tuning.local import TokenBatch
from airtune.tuning.split.model import NO_LABEL, Activations, Draws, StepBits, batch_labels
from airtune.tuning.split.pairing import RowShapes
from airtune.update.codec import pack, unpack
from airtune.update.quantise import check_format, from_wire, to_wire, wire_frame
from airtune.workload.payload import frame_bytes

_VALUES, _GRADIENT = "activations", "gradient"


def kept_numbers(hidden: int, dropout: float) -> int:
    """Numbers of a token that travel: `ceil((1 - dropout) hidden)`, at least one."""
    return max(1, math.ceil((1.0 - dropout) * hidden - 1e-9))


@dataclass(frozen=True)
class CutShape:
    """What the length of a step's messages depends on: rows, columns up to the last real token,
    real tokens and label tokens of the client's batch."""

    rows: int
    width: int
    real_tokens: int
    label_tokens: int
    each: RowShapes | None = field(default=None, compare=False, repr=False)
    """Of each row, where it is known."""

    @classmethod
    def of(cls, batch: TokenBatch) -> "CutShape":
        """The shape of a batch."""
        real = np.asarray(batch.attention_mask, dtype=np.bool_)
        labels = int((batch_labels(batch) != NO_LABEL).sum())
        each = RowShapes.of(real, batch.label_mask)
        return cls(len(real), _used_width(real), int(real.sum()), labels, each)

    def of_rows(self, rows: Sequence[int]) -> "CutShape":
        """The shape of some rows alone."""
        assert self.each is not None, "the rows of a batch are known where it is made"
        return CutShape(len(rows), *self.each.of_rows(rows))


@final
@dataclass(frozen=True)
class CutCodec:
    """Number formats of what goes forward and of what comes back: fp32, fp16, bf16 or int8.

    A `vocabulary` of up to 65,536 token ids takes two bytes a label, a larger one four.
    With `dropout` p only `ceil((1 - p) h)` of a token's h numbers travel, drawn at random, times
    `h / kept`, so that their mean over draws is the token; the gradient comes back on the same
    numbers. Both ends draw the mask (`in_step`), so it takes no bits.
    """

    vocabulary: int
    activations: str = "fp32"
    gradients: str = "fp32"
    dropout: float = 0.0
    mask: Draws | None = None

    def __post_init__(self) -> None:
        check_format(self.activations, "cut.activations")
        check_format(self.gradients, "cut.gradients")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError("cut.dropout", self.dropout, "at least 0 and below 1")

    def of_client(self, dropout: float, number_format: str | None) -> "CutCodec":
        """This codec with what a plan decides for one client; None leaves the formats."""
        if dropout == self.dropout and number_format is None:
            return self
        ahead, back = number_format or self.activations, number_format or self.gradients
        return replace(self, dropout=dropout, activations=ahead, gradients=back)

    def in_step(self, mask: Draws) -> "CutCodec":
        """This codec in a step whose mask comes from these draws."""
        return self if self.dropout == 0.0 else replace(self, mask=mask)

    def _kept(self, hidden: int) -> int:
        """Numbers of a token that travel."""
        return hidden if self.dropout == 0.0 else kept_numbers(hidden, self.dropout)

    def _places(self, tokens: int, hidden: int) -> Tensor | None:
        """Of each real token the numbers that travel [token, kept]; None for all of them."""
        if self.dropout == 0.0:
            return None
        if self.mask is None:
            raise ValueError("a codec with dropout must be bound first: codec.in_step(draws)")
        order = self.mask().random((tokens, hidden), dtype=np.float32)
        kept = np.argpartition(order, self._kept(hidden) - 1, axis=1)[:, : self._kept(hidden)]
        return torch.from_numpy(np.sort(kept, axis=1))

    def encode_activations(self, message: Activations, draws: Draws) -> bytes:
        """One client's message up. Without labels it has only their number."""
        frame = self._thinned(_VALUES, message.values, message.real, draws)
        width = _used_width(message.real.numpy())
        frame["real"] = _pack_rows(message.real[:, :width])
        if message.labels is None:
            frame["label_tokens"] = torch.tensor([message.label_tokens], dtype=torch.int32)
        else:
            wanted = message.labels[:, :width] != NO_LABEL
            frame["label_mask"] = _pack_rows(wanted)
            ids = message.labels[:, :width][wanted].numpy()
            frame["labels"] = torch.from_numpy(ids.astype(self._label_type))
        return pack(frame)

    def decode_activations(self, payload: bytes) -> Activations:
        """The message as the main server reads it, without columns that are padding in all rows."""
        frame = unpack(payload)
        real = _unpack_rows(frame["real"])
        real = real[:, : _used_width(real.numpy())]
        values = self._restored(frame, _VALUES, real)
        if "label_tokens" in frame:
            return Activations(values, real, None, int(frame["label_tokens"][0]))
        wanted = _unpack_rows(frame["label_mask"])[:, : real.shape[1]]
        labels = torch.full(real.shape, NO_LABEL, dtype=torch.long)
        labels[wanted] = torch.from_numpy(frame["labels"].numpy().astype(np.int64))
        return Activations(values, real, labels, len(frame["labels"]))

    def activation_bits(self, shape: CutShape, hidden: int, *, labels: bool = True) -> int:
        """Predicted length of `encode_activations`'s answer [bit]."""
        packed = [shape.rows, -(-shape.width // 8)]
        frame = self._predicted(_VALUES, shape, hidden)
        frame["real"] = ("U8", packed)
        if labels:
            kind = "U16" if self._label_type is np.uint16 else "I32"
            frame |= {"label_mask": ("U8", packed), "labels": (kind, [shape.label_tokens])}
        else:
            frame["label_tokens"] = ("I32", [1])
        return 8 * frame_bytes(frame)

    def encode_hidden(self, values: Tensor, real: Tensor, draws: Draws) -> bytes:
        """Hidden states for a client that keeps its labels (U-shaped)."""
        return pack(_real_to_wire(_VALUES, values, real, self.activations, draws))

    def decode_hidden(self, payload: bytes, real: Tensor) -> Tensor:
        """What `encode_hidden` sent, zeros at padding [row, token, hidden]."""
        return _real_from_wire(unpack(payload), _VALUES, real, self.activations)

    def hidden_bits(self, shape: CutShape, hidden: int) -> int:
        """Predicted length of `encode_hidden`'s answer [bit]."""
        return 8 * frame_bytes(_wire_frame(_VALUES, shape, hidden, self.activations))

    def encode_gradient(self, values: Tensor, real: Tensor, draws: Draws) -> bytes:
        """Gradient of the client's mean loss with respect to what crossed the cut."""
        return pack(self._thinned(_GRADIENT, values, real, draws))

    def decode_gradient(self, payload: bytes, real: Tensor) -> Tensor:
        """What `encode_gradient` sent, zeros at padding [row, token, hidden].

        With dropout the gradient at what was received, times `h / kept` where a number had
        travelled: the gradient at what was sent.
        """
        return self._restored(unpack(payload), _GRADIENT, real)

    def gradient_bits(self, shape: CutShape, hidden: int) -> int:
        """Predicted length of `encode_gradient`'s answer [bit]."""
        return 8 * frame_bytes(self._predicted(_GRADIENT, shape, hidden))

    def _predicted(
        self, name: str, shape: CutShape, hidden: int
    ) -> dict[str, tuple[str, list[int]]]:
        frame = _wire_frame(name, shape, self._kept(hidden), self._format(name))
        return frame if self.dropout == 0.0 else {**frame, "hidden": ("I32", [1])}

    def _format(self, name: str) -> str:
        return self.activations if name == _VALUES else self.gradients

    def _thinned(self, name: str, values: Tensor, real: Tensor, draws: Draws) -> dict[str, Tensor]:
        """The frame of a message's numbers; with the width where it does not follow from them."""
        hidden = values.shape[-1]
        places = self._places(int(real.sum()), hidden)
        if places is None:
            return _real_to_wire(name, values, real, self._format(name), draws)
        kept = values.detach()[real].gather(1, places)
        vector = kept.reshape(-1).to(torch.float32)
        frame = to_wire(name, vector, self._format(name), draws, block=kept.shape[1])
        return {**frame, "hidden": torch.tensor([hidden], dtype=torch.int32)}

    def _restored(self, frame: Mapping[str, Tensor], name: str, real: Tensor) -> Tensor:
        """What `_thinned` sent, times `h / kept`."""
        if self.dropout == 0.0:
            return _real_from_wire(frame, name, real, self._format(name))
        hidden, count = int(frame["hidden"][0]), int(real.sum())
        places, kept = self._places(count, hidden), self._kept(hidden)
        if len(frame[name]) != count * kept:
            raise InputError("payload", f"{len(frame[name])} numbers", f"{count * kept} numbers")
        assert places is not None
        found = from_wire(frame, name, self._format(name), block=kept).view(count, kept)
        tokens = torch.zeros(count, hidden).scatter_(1, places, found * (hidden / kept))
        values = torch.zeros((*real.shape, hidden))
        values[real] = tokens
        return values

    def encode_shared(self, values: Tensor, real: Tensor, label_tokens: int, draws: Draws) -> bytes:
        """A gradient for all clients: rows of no client's batch, and the label positions behind."""
        frame = _real_to_wire(_GRADIENT, values, real, self.gradients, draws)
        frame["real"] = _pack_rows(real)
        frame["label_tokens"] = torch.tensor([label_tokens], dtype=torch.int32)
        return pack(frame)

    def decode_shared(self, payload: bytes) -> tuple[Tensor, Tensor, int]:
        """What `encode_shared` sent: values, where they are real, and the label positions."""
        frame = unpack(payload)
        real = _unpack_rows(frame["real"])
        real = real[:, : _used_width(real.numpy())]
        values = _real_from_wire(frame, _GRADIENT, real, self.gradients)
        return values, real, int(frame["label_tokens"][0])

    def shared_bits(self, shape: CutShape, hidden: int) -> int:
        """Predicted length of `encode_shared`'s answer [bit]."""
        frame = _wire_frame(_GRADIENT, shape, hidden, self.gradients)
        frame["real"] = ("U8", [shape.rows, -(-shape.width // 8)])
        frame["label_tokens"] = ("I32", [1])
        return 8 * frame_bytes(frame)

    def step_bits(self, shape: CutShape, hidden: int, *, labels: bool = True) -> StepBits:
        """One client's messages of a step, predicted; U-shaped without `labels`."""
        up = self.activation_bits(shape, hidden, labels=labels)
        gradient = self.gradient_bits(shape, hidden)
        if labels:
            return StepBits(activations=up, gradient=gradient)
        return StepBits(up, self.hidden_bits(shape, hidden), gradient, gradient)

    @property
    def _label_type(self) -> type[np.uint16] | type[np.int32]:
        return np.uint16 if self.vocabulary <= 1 << 16 else np.int32


def _used_width(real: NDArray[np.bool_]) -> int:
    """Columns up to the last one that has a real token."""
    used = np.flatnonzero(real.any(axis=0))
    return int(used[-1]) + 1 if used.size else 0


def _pack_rows(bits: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(bits.numpy(), axis=1))


def _unpack_rows(packed: Tensor) -> Tensor:
    return torch.from_numpy(np.unpackbits(packed.numpy(), axis=1).astype(np.bool_))


def _real_to_wire(
    name: str, values: Tensor, real: Tensor, number_format: str, draws: Draws
) -> dict[str, Tensor]:
    tokens = values.detach()[real]
    vector = tokens.reshape(-1).to(torch.float32)
    return to_wire(name, vector, number_format, draws, block=tokens.shape[1])


def _real_from_wire(
    frame: Mapping[str, Tensor], name: str, real: Tensor, number_format: str
) -> Tensor:
    count = int(real.sum())
    if count == 0 or len(frame[name]) % count:
        raise InputError(
            "payload", f"{len(frame[name])} numbers", f"a multiple of its {count} real tokens"
        )
    hidden = len(frame[name]) // count
    values = torch.zeros((*real.shape, hidden))
    values[real] = from_wire(frame, name, number_format, block=hidden).view(count, hidden)
    return values


def _wire_frame(
    name: str, shape: CutShape, hidden: int, number_format: str
) -> dict[str, tuple[str, list[int]]]:
    frame = wire_frame(name, shape.real_tokens * hidden, number_format, block=hidden)
    return {key: (dtype, list(extents)) for key, (dtype, extents) in frame.items()}
