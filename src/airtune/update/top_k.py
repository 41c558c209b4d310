"""The largest coordinates of an update, wherever they are: the baseline without structure.

The places travel as a bitmap of all coordinates, or as packed indices of just enough bits each,
whichever is smaller; both ends derive which from the counts alone.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan, Decision
from airtune.update.codec import (
    Codec,
    Shapes,
    TensorMap,
    coordinates,
    flatten,
    pack,
    shapes_of,
    unflatten,
    unpack,
)
from airtune.update.quantise import check_format, content_draws, from_wire, to_wire, wire_frame
from airtune.workload.payload import frame_bytes


def kept_coordinates(count: int, sparsity: float) -> int:
    """count - floor(sparsity x count), at least 1."""
    if not 0.0 <= sparsity < 1.0:
        raise InputError("sparsity", sparsity, "a share from 0 to below 1, of what is removed")
    return max(1, count - math.floor(sparsity * count + 1e-9))


def index_bits(count: int) -> int:
    """Bits that name one of `count` coordinates."""
    return max(1, (count - 1).bit_length())


def places_bytes(kept: int, count: int) -> int:
    """Length of the places: the shorter of bitmap and packed indices [byte]."""
    return min(_packed(kept * index_bits(count)), _packed(count))


def _packed(bits: int) -> int:
    return -(-bits // 8)


def _uses_bitmap(kept: int, count: int) -> bool:
    return _packed(count) <= _packed(kept * index_bits(count))


@final
@dataclass(frozen=True)
class TopKCodec(Codec):
    """The `(1 - sparsity)` share of all coordinates that changed most, over the whole adapter.

    With `within`, as many coordinates as fit, places included, into the bits that this other codec
    would send with the same plan: to compare the two at equal bytes.
    """

    honours = frozenset({Decision.SPARSITY})
    dtype: str = "fp32"
    seed: int = 0
    within: Codec | None = None

    def __post_init__(self) -> None:
        check_format(self.dtype)

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        vector = flatten(change)
        kept = self._kept(shapes_of(change), plan)
        places = torch.topk(vector.abs(), kept, sorted=False).indices.sort().values
        values = vector[places]
        draws = partial(content_draws, self.seed, plan.client, values)
        frame = to_wire("update", values, self.dtype, draws)
        frame["places"] = torch.from_numpy(_write_places(places.numpy(), len(vector)))
        return pack(frame)

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        frame = unpack(payload)
        kept = self._kept(template, plan)
        values = from_wire(frame, "update", self.dtype)
        if len(values) != kept:
            raise InputError("payload", f"{len(values)} numbers", f"{kept} numbers, as planned")
        vector = torch.zeros(coordinates(template))
        vector[self._places(frame, template, plan)] = values
        return unflatten(vector, template)

    def sent(self, payload: bytes, template: Shapes, plan: ClientPlan) -> TensorMap:
        """The places of the payload."""
        chosen = torch.zeros(coordinates(template), dtype=torch.bool)
        chosen[self._places(unpack(payload), template, plan)] = True
        return unflatten(chosen, template)

    def _places(self, frame: TensorMap, template: Shapes, plan: ClientPlan) -> Tensor:
        """Which coordinates travelled; InputError unless they are as many as planned."""
        count, kept = coordinates(template), self._kept(template, plan)
        if len(frame["places"]) != places_bytes(kept, count):
            raise InputError(
                "payload",
                f"places of {len(frame['places'])} bytes",
                f"{places_bytes(kept, count)} bytes",
            )
        places = _read_places(frame["places"].numpy(), kept, count)
        if len(places) != kept or (places >= count).any():
            raise InputError("payload", "damaged places", f"{kept} places below {count}")
        return torch.from_numpy(places)

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        return self._bits(self._kept(shapes, plan), coordinates(shapes))

    def _kept(self, shapes: Shapes, plan: ClientPlan) -> int:
        count = coordinates(shapes)
        if self.within is None:
            return kept_coordinates(count, plan.sparsity)
        budget = self.within.payload_bits(shapes, plan)
        low, high = 1, count
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._bits(middle, count) <= budget else (low, middle - 1)
        return low

    def _bits(self, kept: int, count: int) -> int:
        frame = dict(wire_frame("update", kept, self.dtype))
        frame["places"] = ("U8", [places_bytes(kept, count)])
        return 8 * frame_bytes(frame)


def _write_places(places: NDArray[np.int64], count: int) -> NDArray[np.uint8]:
    if _uses_bitmap(len(places), count):
        bitmap = np.zeros(count, dtype=np.uint8)
        bitmap[places] = 1
        return np.packbits(bitmap)
    shifts = np.arange(index_bits(count))
    return np.packbits(((places[:, None] >> shifts) & 1).astype(np.uint8))


def _read_places(packed: NDArray[np.uint8], kept: int, count: int) -> NDArray[np.int64]:
    if _uses_bitmap(kept, count):
        return np.flatnonzero(np.unpackbits(packed)[:count])
    bits = np.unpackbits(packed)[: kept * index_bits(count)].reshape(kept, -1)
    return bits.astype(np.int64) @ (1 << np.arange(index_bits(count)))
