"""The codec: numbers of 4 or 8 bits with a power of two as each tensor's scale."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan
from airtune.update.codec import Codec, Shapes, TensorMap

_ZERO = -128
"""The exponent of a tensor that is 0 everywhere."""


@final
@dataclass(frozen=True)
class NibbleCodec(Codec):
    """`q = round(x / 2^e)` with `|q| <= 2^(bits - 1) - 1` and the least such e for each tensor.

    A payload is, tensor by tensor in the order of their names, one byte for e and `bits` bits for
    each q, with at most half a byte of padding. No header: both ends know names and shapes. The
    error of a number is at most `2^(e - 1)`. With a power of two as the scale decoded numbers are
    encoded to the same bytes.
    """

    bits: int = 4

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        return b"".join(self._tensor(change[name].numpy()) for name in sorted(change))

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        if 8 * len(payload) != self.payload_bits(template, plan):
            expected = self.payload_bits(template, plan) // 8
            raise InputError("payload", f"{len(payload)} bytes", f"{expected} bytes")
        start, tensors = 0, {}
        for name, size in self._sizes(template):
            exponent = int(np.frombuffer(payload, np.int8, 1, start)[0])
            packed = np.frombuffer(payload, np.uint8, self._bytes(size), start + 1)
            scale = 0.0 if exponent == _ZERO else 2.0**exponent
            values = (self._unpacked(packed)[:size] * scale).astype(np.float32)
            tensors[name] = torch.from_numpy(values).reshape(template[name])
            start += 1 + self._bytes(size)
        return {name: tensors[name] for name in template}

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        return 8 * sum(1 + self._bytes(size) for _, size in self._sizes(shapes))

    @staticmethod
    def _sizes(shapes: Shapes) -> Iterator[tuple[str, int]]:
        """Names in order, with the count of numbers."""
        return ((name, math.prod(shapes[name])) for name in sorted(shapes))

    def _bytes(self, size: int) -> int:
        return -(-size * self.bits // 8)

    def _tensor(self, values: np.ndarray) -> bytes:
        largest, most = float(np.abs(values).max(initial=0.0)), 2 ** (self.bits - 1) - 1
        exponent = max(math.ceil(math.log2(largest / most)), _ZERO + 1) if largest else _ZERO
        whole = np.rint(values.reshape(-1) / 2.0**exponent).astype(np.int8)
        return np.int8(exponent).tobytes() + self._packed(whole).tobytes()

    def _packed(self, whole: np.ndarray) -> np.ndarray:
        """int8 -> bytes; at 4 bits two numbers share a byte, the first in its upper half."""
        if self.bits == 8:
            return whole.view(np.uint8)
        even = np.append(whole, np.zeros(len(whole) % 2, np.int8)).view(np.uint8) & 0x0F
        return even[0::2] << 4 | even[1::2]

    def _unpacked(self, packed: np.ndarray) -> np.ndarray:
        if self.bits == 8:
            return packed.view(np.int8)
        halves = np.stack([packed >> 4, packed & 0x0F], axis=1).reshape(-1).astype(np.int8)
        return np.where(halves > 7, halves - 16, halves)
