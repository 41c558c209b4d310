"""Updates as inner products with directions that both ends draw from a seed.

In the manner of Ferret (Shu et al., arXiv 2409.06277): a change `x` of `d` numbers is cut into
blocks, and of a block of `d_l` numbers travel `K_l` coefficients `c_k = v_k . x_l`, with directions
`v_k` that client and server draw alike from (seed, broadcast), so that no direction is sent.

`gaussian`: v ~ N(0, I); `x^ = (1 / K_l) sum_k c_k v_k` is unbiased, and
`E |x^ - x|^2 = e |x|^2` with e = (d_l + 1) / K_l.

`orthonormal` (ours): K_l rows of a randomised Hadamard matrix of the next power of two m, drawn
without replacement, of which the first d_l columns count: `x^ = (m / K_l) sum_k c_k v_k` is
unbiased with e = (m / K_l - 1) (d_l - 1) / (m - 1). An update of no more numbers than coefficients
travels as it is.

With `shrink` the estimate is divided by 1 + e, which makes the expected error least,
`e / (1 + e) |x|^2`; where d_l = m, orthonormal directions then give the projection.

The `K` coefficients of an update are divided over its blocks by the norms `n_l = |x_l|`, which
travel as well (fp32), so that both ends find the same division: `best` makes the expected error
least (for a = 1 that is K_l in proportion to sqrt(d_l) n_l), `norm` takes K_l in proportion to n_l,
`uniform` to d_l.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from airtune.errors import InputError
from airtune.quantities import FloatArray
from airtune.round_plan import ClientPlan
from airtune.seeds import NO_CLIENT, generator
from airtune.tuning.directions import DRAW_FLOPS
from airtune.update.codec import (
    Codec,
    Shapes,
    TensorMap,
    coordinates,
    flatten,
    pack,
    unflatten,
    unpack,
)
from airtune.workload.payload import frame_bytes

Distribution = Literal["gaussian", "orthonormal"]
Allocation = Literal["best", "norm", "uniform"]
Vector = NDArray[np.float64]
Sent = NDArray[np.int64]

_CHUNK = 1 << 22
"""Numbers of directions that are in memory at once."""


@final
@dataclass(frozen=True)
class SeededCodec(Codec):
    """`directions` coefficients of an update, fp32, and the norms of its `blocks`.

    Lossy, but for as many directions as numbers. Encoding what was decoded gives other bytes where
    directions are gaussian.

    Args:
        directions: K, over all blocks; at most the numbers of the update.
        blocks: equal parts of the update, at most one a coefficient.
        shared: all clients of a round have the same directions.
        shrink: the estimate of least expected error instead of the unbiased one.
    """

    takes_any_tensors = True
    directions: int = 200
    blocks: int = 8
    distribution: Distribution = "orthonormal"
    allocation: Allocation = "best"
    shared: bool = False
    shrink: bool = True
    seed: int = 0
    broadcast: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("directions", self.directions), ("blocks", self.blocks)):
            if value < 1:
                raise InputError(f"codec.{name}", value, "at least 1")

    def in_round(self, broadcast: TensorMap) -> "SeededCodec":
        """This codec with the directions of the round that began with this adapter."""
        content = flatten(broadcast).contiguous().numpy().tobytes()
        digest = hashlib.blake2b(content, digest_size=8).digest()
        return replace(self, broadcast=int.from_bytes(digest, "little"))

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        vector = flatten(change)
        parts = self._cut(vector.numpy().astype(np.float64))
        norms = np.array([np.sqrt(np.square(part).sum()) for part in parts], dtype=np.float32)
        counts = self._counts(norms, [len(part) for part in parts])
        if not self._travels_whole(len(vector)):
            blocks = self._blocks(parts, counts, plan)
            pairs = zip(blocks, parts, strict=True)
            coefficients = np.concatenate([block.project(part) for block, part in pairs])
            vector = torch.from_numpy(coefficients.astype(np.float32))
        return pack({"update": vector.contiguous(), "norms": torch.from_numpy(norms)})

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        frame, count = unpack(payload), coordinates(template)
        coefficients, norms = self._checked(frame, count)
        if self._travels_whole(count):
            return unflatten(torch.from_numpy(coefficients), template)
        places = self._cut(np.zeros(count))
        counts = self._counts(norms, [len(part) for part in places])
        pieces = np.split(coefficients.astype(np.float64), np.cumsum(counts)[:-1])
        triples = zip(self._blocks(places, counts, plan), pieces, counts, strict=True)
        rebuilt = [
            self._factor(block.size, sent) * block.rebuild(piece) for block, piece, sent in triples
        ]
        vector = torch.from_numpy(np.concatenate(rebuilt).astype(np.float32))
        return unflatten(vector, template)

    @property
    def shares_directions(self) -> bool:
        return self.shared

    def coefficients(self, payload: bytes, template: Shapes, plan: ClientPlan) -> Tensor | None:
        """`s c` of the estimate `sum_k s c_k v_k`, in the first places of each block [coordinate].

        None for directions of the client's own, and for an update that travels as it is.
        """
        count = coordinates(template)
        if not self.shared or self._travels_whole(count):
            return None
        sent, norms = self._checked(unpack(payload), count)
        sizes = self.sizes(count)
        counts = self._counts(norms, sizes)
        slots, start = np.zeros(count), 0
        for first, size, number in zip(np.cumsum([0, *sizes[:-1]]), sizes, counts, strict=True):
            scale = self._factor(size, number) * self._kind.scale(size, number)
            slots[first : first + number] = scale * sent[start : start + number].astype(np.float64)
            start += number
        return torch.from_numpy(slots)

    def sizes(self, count: int) -> list[int]:
        """Coordinates of each block."""
        return [len(part) for part in self._cut(np.zeros(count))]

    def combined(self, numbers: Vector, counts: Sequence[int], size: int) -> Vector:
        """`sum_k b_k v_k` on so many directions of each block, which all clients share."""
        pieces = np.split(numbers, np.cumsum(counts)[:-1])
        blocks = self._blocks(self._cut(np.zeros(size)), counts)
        pairs = zip(blocks, pieces, strict=True)
        return np.concatenate([block.combine(piece) for block, piece in pairs])

    def combining_flops(self, counts: Sequence[int], size: int) -> float:
        """Directions and products of `combined`, as `encoding_flops` counts them."""
        longest = -(-size // self._parts(size))
        if self.distribution == "gaussian":
            return sum(counts) * longest * (2.0 + DRAW_FLOPS)
        padded = _padded(longest)
        return self._parts(size) * padded * (1.0 + math.log2(padded))

    def reported(self, payload: bytes, template: Shapes) -> list[float]:
        """The norms of the update's blocks."""
        _, norms = self._checked(unpack(payload), coordinates(template))
        return [float(norm) for norm in norms]

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        count = coordinates(shapes)
        sizes = self._total(count), self._parts(count)
        return 8 * frame_bytes({"update": ("F32", [sizes[0]]), "norms": ("F32", [sizes[1]])})

    def encoding_flops(self, shapes: Shapes, plan: ClientPlan) -> float:
        """Norms, directions and products of the longest block for every coefficient."""
        count = coordinates(shapes)
        if self._travels_whole(count):
            return 0.0
        longest = -(-count // self._parts(count))
        if self.distribution == "gaussian":
            return 2.0 * count + self._total(count) * longest * (2.0 + DRAW_FLOPS)
        size = _padded(longest)
        return 2.0 * count + self._parts(count) * size * (1.0 + math.log2(size))

    def expected_error(self, norms: Sequence[float], count: int) -> float | None:
        """`E |x^ - x|^2 / |x|^2` of an update with these norms; None for no change at all."""
        sizes = [len(part) for part in self._cut(np.zeros(count))]
        counts = self._counts(np.array(norms, dtype=np.float32), sizes)
        whole = float(np.square(np.array(norms, dtype=np.float64)).sum())
        if self._travels_whole(count):
            return 0.0 if whole > 0 else None
        lost = [
            norm * norm * float(self._error(size, np.array(sent)))
            for norm, size, sent in zip(map(float, norms), sizes, counts, strict=True)
        ]
        return sum(lost) / whole if whole > 0 else None

    def _total(self, count: int) -> int:
        return min(self.directions, count)

    def _travels_whole(self, count: int) -> bool:
        return self.distribution == "orthonormal" and self.directions >= count

    def _parts(self, count: int) -> int:
        return min(self.blocks, self._total(count))

    def _cut(self, vector: Vector) -> list[Vector]:
        return np.array_split(vector, self._parts(len(vector)))

    def _checked(
        self, frame: TensorMap, count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Coefficients and norms; InputError unless they are as many as there must be."""
        found = []
        for name, expected in (("update", self._total(count)), ("norms", self._parts(count))):
            values = frame[name].numpy() if name in frame else np.zeros(0, dtype=np.float32)
            if values.dtype != np.float32 or values.shape != (expected,):
                raise InputError("payload", f"{values.size} {name}", f"{expected} fp32 numbers")
            if not np.isfinite(values).all():
                raise InputError(
                    name, "infinite or not a number", "finite", "lower the learning rate"
                )
            found.append(values)
        return found[0], found[1]

    def _counts(self, norms: NDArray[np.float32], sizes: Sequence[int]) -> list[int]:
        """K_l [block]: at least 1, at most d_l, together K; the first of equals has more.

        Every expected error is convex in K_l, so the coefficients that remove most, whatever block
        they are of, have the least sum (Fox, Operations Research 14, 1966).
        """
        spare = self._total(sum(sizes)) - len(sizes)
        counts = [1] * len(sizes)
        if spare == 0:
            return counts
        pairs = zip(map(float, norms), sizes, strict=True)
        # What the second, third, ... coefficient of each block removes; falling.
        gains = [self._gain(norm, n, np.arange(1, min(n - 1, spare) + 1)) for norm, n in pairs]
        least = np.partition(np.concatenate(gains), -spare)[-spare]
        counts = [1 + int((gain > least).sum()) for gain in gains]
        for place, gain in enumerate(gains):
            left = self._total(sum(sizes)) - sum(counts)
            counts[place] += min(left, int((gain == least).sum()))
        return counts

    def _gain(self, norm: float, size: int, sent: Sent) -> Vector:
        """What one coefficient more is worth to a block that has `sent` of them."""
        if self.allocation == "uniform":
            return np.asarray(size / (sent + 1.0))
        if self.allocation == "norm":
            return np.asarray(norm / (sent + 1.0))
        return norm * norm * (self._error(size, sent) - self._error(size, sent + 1))

    def _error(self, size: int, sent: Sent) -> Vector:
        """Expected error of a block of norm 1."""
        error = self._unshrunk(size, sent)
        return np.asarray(error / (1 + error)) if self.shrink else error

    def _factor(self, size: int, sent: int) -> float:
        """What the unbiased estimate is multiplied by."""
        return 1 / (1 + float(self._unshrunk(size, np.array(sent)))) if self.shrink else 1.0

    def _unshrunk(self, size: int, sent: Sent) -> Vector:
        """e of the module's equations."""
        if self.distribution == "gaussian":
            return np.asarray((size + 1) / sent)
        padded = _padded(size)
        return np.asarray((padded / sent - 1) * (size - 1) / max(padded - 1, 1))

    def _blocks(
        self, parts: Sequence[Vector], counts: Sequence[int], plan: ClientPlan | None = None
    ) -> Iterator["_Gaussian | _Hadamard"]:
        if self.broadcast is None:
            raise ValueError("bind the codec first: codec.in_round(broadcast)")
        client = NO_CLIENT if self.shared or plan is None else plan.client
        for place, (part, count) in enumerate(zip(parts, counts, strict=True)):
            draws = generator(self.seed, f"directions of block {place}", self.broadcast, client)
            yield self._kind(draws, len(part), count)

    @property
    def _kind(self) -> "type[_Gaussian | _Hadamard]":
        return _Gaussian if self.distribution == "gaussian" else _Hadamard


@final
@dataclass(frozen=True)
class _Gaussian:
    """`count` directions of `size` independent standard normal numbers; drawn once, in order."""

    draws: np.random.Generator
    size: int
    count: int

    def project(self, vector: Vector) -> FloatArray:
        """`v_k . x` [direction]."""
        return np.concatenate([np.einsum("kd,d->k", rows, vector) for rows in self._rows()])

    @staticmethod
    def scale(size: int, count: int) -> float:
        """What `combine` is multiplied by for the unbiased estimate."""
        return 1 / count

    def rebuild(self, coefficients: Vector) -> Vector:
        """The unbiased estimate of x."""
        return self.combine(coefficients) / self.count

    def combine(self, coefficients: Vector) -> Vector:
        """`sum_k c_k v_k`."""
        total, start = np.zeros(self.size), 0
        for rows in self._rows():
            total += np.einsum("kd,k->d", rows, coefficients[start : start + len(rows)])
            start += len(rows)
        return total

    def _rows(self) -> Iterator[NDArray[np.float32]]:
        step = max(1, _CHUNK // self.size)
        for start in range(0, self.count, step):
            shape = min(step, self.count - start), self.size
            yield self.draws.standard_normal(shape, dtype=np.float32)


@final
@dataclass(frozen=True)
class _Hadamard:
    """`count` rows, without replacement, of `H diag(signs) / sqrt(m)`."""

    draws: np.random.Generator
    size: int
    count: int

    def project(self, vector: Vector) -> FloatArray:
        """The coefficients `v_k . x`."""
        signs, rows = self._drawn()
        padded = np.zeros(len(signs))
        padded[: self.size] = vector
        turned: FloatArray = hadamard(signs * padded)[rows]
        return turned

    @staticmethod
    def scale(size: int, count: int) -> float:
        """What `combine` is multiplied by for the unbiased estimate."""
        return _padded(size) / count

    def rebuild(self, coefficients: Vector) -> Vector:
        """The unbiased estimate of x."""
        return self.scale(self.size, self.count) * self.combine(coefficients)

    def combine(self, coefficients: Vector) -> Vector:
        """`sum_k c_k v_k`."""
        signs, rows = self._drawn()
        padded = np.zeros(len(signs))
        padded[rows] = coefficients
        total: Vector = (signs * hadamard(padded))[: self.size]
        return total

    def _drawn(self) -> tuple[Vector, NDArray[np.int64]]:
        padded = _padded(self.size)
        signs: Vector = 1.0 - 2.0 * self.draws.integers(0, 2, padded).astype(np.float64)
        return signs, self.draws.permutation(padded)[: self.count]


def hadamard(vector: Vector) -> Vector:
    """`H x / sqrt(m)` for m a power of two, in m log2 m additions; its own inverse."""
    values = vector.reshape(1, -1)
    while values.shape[1] > 1:
        halves = values.reshape(len(values), 2, -1)
        both = halves[:, 0] + halves[:, 1], halves[:, 0] - halves[:, 1]
        values = np.stack(both, axis=1).reshape(2 * len(values), -1)
    result: Vector = values.ravel() / math.sqrt(vector.size)
    return result


def _padded(size: int) -> int:
    """The next power of two."""
    return 1 << max(size - 1, 0).bit_length()
