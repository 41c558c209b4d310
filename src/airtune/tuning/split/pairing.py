"""Which rows of different clients' batches have their gradients aggregated, and where.

Of every client the `ceil(ratio rows)` shortest rows are paired by rank: the shortest of all clients
with each other, and so on. Both ends of a link know a client's lengths, so no index travels. A pair
is as long as its shortest row, and is trained at the positions that all its rows predict.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RowShapes:
    """Of each row of a batch, its real tokens, and its label positions as bits of a number (bit t:
    the token at t is predicted). Rows are padded on the right."""

    tokens: Sequence[int]
    labels: Sequence[int]

    @classmethod
    def of(cls, real: Any, wanted: Any) -> "RowShapes":
        """From masks [row, token]; nothing precedes a row's first token, so it is no label."""
        wanted = np.asarray(wanted, dtype=np.bool_).copy()
        wanted[:, :1] = False
        packed = np.packbits(wanted, axis=1, bitorder="little")
        labels = [int.from_bytes(row.tobytes(), "little") for row in packed]
        return cls(np.asarray(real, dtype=np.bool_).sum(axis=1).tolist(), labels)

    def ranked(self) -> list[int]:
        """Rows by their length, the shortest first; of equal ones in their order."""
        return sorted(range(len(self.tokens)), key=lambda row: self.tokens[row])

    def of_rows(self, rows: Sequence[int]) -> tuple[int, int, int]:
        """Width, real tokens and label tokens of some rows alone."""
        tokens = [self.tokens[row] for row in rows]
        labels = sum(self.labels[row].bit_count() for row in rows)
        return max(tokens, default=0), sum(tokens), labels


@dataclass(frozen=True)
class Pairing:
    """The rows of each client that are aggregated [client][pair], the tokens of each pair, and the
    positions that all rows of a pair predict, as bits of a number."""

    rows: Sequence[Sequence[int]]
    tokens: Sequence[int]
    common: Sequence[int]

    @property
    def width(self) -> int:
        """Tokens of the longest pair."""
        return max(self.tokens)

    @property
    def label_tokens(self) -> int:
        """Positions at which gradients are aggregated, of all pairs."""
        return sum(bits.bit_count() for bits in self.common)

    def rest(self, client: int, rows: int) -> list[int]:
        """The rows of a client that are not aggregated, in their order."""
        chosen = set(self.rows[client])
        return [row for row in range(rows) if row not in chosen]


def paired(shapes: Sequence[RowShapes], ratio: float) -> Pairing | None:
    """The pairs of a step; None where nothing is aggregated: at ratio 0, or for one client."""
    if len(shapes) < 2:
        return None
    # Tolerant of products such as 0.7 x 10 that lie above the whole number.
    count = math.ceil(ratio * min(len(shape.tokens) for shape in shapes) - 1e-9)
    if count <= 0:
        return None
    rows = [shape.ranked()[:count] for shape in shapes]
    tokens, common = [], []
    for pair in zip(*rows, strict=True):
        members = list(zip(shapes, pair, strict=True))
        tokens.append(min(shape.tokens[row] for shape, row in members))
        bits = (1 << tokens[-1]) - 1
        for shape, row in members:
            bits &= shape.labels[row]
        common.append(bits)
    return Pairing(rows, tokens, common)
