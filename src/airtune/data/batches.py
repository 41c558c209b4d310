"""Batches of tokenised rows: padding, label masks, and the order of a client's rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airtune.data.encoding import Encoded
from airtune.seeds import generator


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to the longest, named axes [row, token].

    `label_mask` is True at the tokens that the model must write: the loss is the mean over them of
    -log p(token t | tokens before t). `attention_mask` is True at real tokens.
    """

    token_ids: NDArray[np.int64]
    attention_mask: NDArray[np.bool_]
    label_mask: NDArray[np.bool_]

    @property
    def label_tokens(self) -> int:
        """The number of tokens that the loss is a mean over."""
        return int(self.label_mask.sum())

    @property
    def real_tokens(self) -> int:
        """The number of tokens that are not padding."""
        return int(self.attention_mask.sum())


def make_batch(
    encoded: Encoded, rows: Sequence[int] | NDArray[np.int64], pad_token: int, width: int = 0
) -> Batch:
    """The given rows as one batch, `width` tokens wide or as wide as the longest row needs."""
    index = np.asarray(rows, dtype=np.int64)
    length = encoded.length[index]
    width = max(width, int(length.max()))
    position = np.arange(width)
    real = position < length[:, None]
    # Positions beyond a row's end read its first token and are overwritten with padding.
    source = encoded.starts[index][:, None] + np.where(real, position, 0)
    tokens = np.where(real, encoded.token_ids[source], pad_token).astype(np.int64)
    labels = real & encoded.label[source]
    return Batch(tokens, real, labels)


def local_batches(
    rows: NDArray[np.int64], batch_size: int, steps: int, seed: int, round_index: int, client: int
) -> NDArray[np.int64]:
    """Which rows a client trains on in each of its local steps of one round [step, row of batch].

    Passes over all its rows in a fresh random order each, cut into batches of exactly
    `batch_size`, so that every step costs the same; a client with fewer rows has some twice in
    one batch. A function of (seed, round, client) alone, so that a resumed run draws the same.
    """
    stream = generator(seed, "local batches", round_index, client)
    passes = -(-batch_size * steps // len(rows))
    order = np.concatenate([stream.permutation(rows) for _ in range(passes)])
    return order[: batch_size * steps].reshape(steps, batch_size)


def rows_alike(length: NDArray[np.int64], tokens: int) -> Iterator[NDArray[np.int64]]:
    """Every row once, rows of like length together, which saves most of the padding.

    At most `tokens` of them at once, padding included, but always one row.
    """
    order = np.argsort(length, kind="stable")
    # Lengths rise, so that the last row of a batch is its longest.
    lengths = length[order]
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * lengths[end] <= tokens:
            end += 1
        yield order[start:end]
        start = end
