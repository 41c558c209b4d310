"""How numbers travel: as fp32, fp16 or bf16, rounded to nearest, or as int8, rounded at random.

int8: a block of neighbouring numbers shares one fp32 scale, `s = max |x| / 127`, and travels as
`q = floor(x / s + u)`, u uniform in [0, 1), so that `E[s q] = x`: the rounding error averages out
over clients and rounds (QSGD, Alistarh et al., arXiv 1610.02132, section 3.1, with the maximum in
place of the 2-norm).
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan
from airtune.seeds import generator
from airtune.update.codec import (
    WIRE_DTYPES,
    Codec,
    DenseCodec,
    Shapes,
    TensorMap,
    coordinates,
    flatten,
    pack,
    unflatten,
    unpack,
)
from airtune.workload.payload import WIRE_DTYPES as FRAME_DTYPES
from airtune.workload.payload import Frame, dtype_bits, frame_bytes

INT8 = "int8"
NUMBER_FORMATS = (*WIRE_DTYPES, INT8)
Draws: TypeAlias = Callable[[], np.random.Generator]
"""The stream of stochastic rounding; used only where something is rounded at random."""

BLOCK = 128
"""Numbers that share a scale, where nothing better is known: 8.25 bits a number."""
_LARGEST = 127


def check_format(name: str, field: str = "codec.dtype") -> None:
    """InputError for a number format that does not exist."""
    if name not in NUMBER_FORMATS:
        raise InputError(field, name, f"one of {', '.join(NUMBER_FORMATS)}")


def wire_frame(name: str, count: int, number_format: str, block: int = BLOCK) -> Frame:
    """What `to_wire` makes of `count` numbers: names, safetensors dtypes and shapes."""
    if number_format != INT8:
        return {name: (FRAME_DTYPES[number_format], [count])}
    return {name: ("I8", [count]), f"{name}_scale": ("F32", [_blocks(count, block)])}


def number_bits(number_format: str, block: int = BLOCK) -> float:
    """Bits that a number takes in a long vector, its share of the scale included."""
    if number_format == INT8:
        return 8.0 + 32.0 / block
    return float(dtype_bits(number_format))


def _blocks(count: int, block: int) -> int:
    return -(-count // block)


def to_wire(
    name: str,
    values: Tensor,
    number_format: str,
    draws: Draws,
    block: int = BLOCK,
) -> dict[str, Tensor]:
    """Tensors for a frame, from a vector. Only int8 draws: one number per entry.

    Raises InputError for numbers that int8 cannot hold (infinite, or not a number).
    """
    if number_format != INT8:
        return {name: values.to(WIRE_DTYPES[number_format])}
    padded = torch.zeros(_blocks(len(values), block), block)
    padded.view(-1)[: len(values)] = values
    largest = padded.abs().amax(1) if len(values) else torch.zeros(0)
    if not largest.isfinite().all():
        raise InputError(
            name, "infinite or not a number", "finite to travel as int8", "lower the learning rate"
        )
    # The floor keeps a block of zeros, or of numbers next to zero, from dividing by zero.
    scale = (largest / _LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    chance = torch.from_numpy(draws().random(len(values), dtype=np.float32))
    steps = torch.floor((padded / scale[:, None]).view(-1)[: len(values)] + chance)
    whole = steps.clamp(-_LARGEST, _LARGEST).to(torch.int8)
    return {name: whole, f"{name}_scale": scale}


def from_wire(
    frame: Mapping[str, Tensor], name: str, number_format: str, block: int = BLOCK
) -> Tensor:
    """The vector that `to_wire` sent, fp32."""
    values = frame[name].to(torch.float32)
    if number_format != INT8:
        return values
    return values * frame[f"{name}_scale"].repeat_interleave(block)[: len(values)]


def content_draws(seed: int, client: int, content: Tensor) -> np.random.Generator:
    """A stream that depends on the numbers themselves: a codec does not have the round.

    So encoding the same update again gives the same bytes, and no two updates share their draws.
    """
    digest = hashlib.blake2b(content.contiguous().numpy().tobytes(), digest_size=8).digest()
    return generator(seed, "codec", int.from_bytes(digest, "little"), client)


@final
@dataclass(frozen=True)
class Int8Codec(Codec):
    """Every coordinate as int8 with stochastic rounding, a scale for every `block` of them.

    Lossy and unbiased: encoding what was decoded draws again and may differ by a step.
    """

    takes_any_tensors = True
    block: int = BLOCK
    seed: int = 0

    def __post_init__(self) -> None:
        if self.block < 1:
            raise InputError("codec.block", self.block, "at least 1")

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        vector = flatten(change)
        draws = partial(content_draws, self.seed, plan.client, vector)
        return pack(to_wire("update", vector, INT8, draws, self.block))

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        return unflatten(from_wire(unpack(payload), "update", INT8, self.block), template)

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        return 8 * frame_bytes(wire_frame("update", coordinates(shapes), INT8, self.block))


def whole_codec(number_format: str, seed: int) -> Codec:
    """Every coordinate, in one of `NUMBER_FORMATS`."""
    return Int8Codec(seed=seed) if number_format == INT8 else DenseCodec(number_format)
