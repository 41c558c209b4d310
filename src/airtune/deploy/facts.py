"""What clients report of their rows, checked, and the facts that the server plans with.

A client states the length and the label tokens of each of its rows, or, where `deploy.row_lengths`
is `means`, only means over batches. The server then knows every batch's size without a row, since
which rows a client draws follows from (seed, round, client). From means it plans and charges a mean
batch. Neither reveals a token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airtune.config.experiment import ExperimentConfig
from airtune.data.batches import local_batches
from airtune.deploy.messages import BatchMeans, Ready
from airtune.errors import InputError
from airtune.experiment.shards import Shards
from airtune.federated.records.fingerprint import DIGEST_BYTES
from airtune.update.cut import CutShape
from airtune.workload.step import Step

LENGTHS, LABELS = "lengths", "labels"
MEAN_BATCHES = 64
"""Drawn batches over which a client takes its means."""
SHORTEST = 2
"""Tokens of a row: one to begin with, one to write."""


@dataclass(frozen=True)
class RowFacts:
    """One client's rows: `lengths` and `labels` in tokens [row], or `means` in their place."""

    rows: int
    digest: str
    lengths: NDArray[np.int32] | None = None
    labels: NDArray[np.int32] | None = None
    means: BatchMeans | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        if self.means is not None:
            return self.means.longest
        assert self.lengths is not None
        return int(self.lengths.max())


def parts_of(facts: RowFacts) -> dict[str, bytes]:
    """The arrays as they travel, int32 in little-endian order."""
    if facts.lengths is None or facts.labels is None:
        return {}
    return {
        LENGTHS: facts.lengths.astype("<i4").tobytes(),
        LABELS: facts.labels.astype("<i4").tobytes(),
    }


def local_facts(shards: Shards, client: int, *, exact: bool) -> RowFacts:
    """The facts of a client's own rows."""
    own = shards.parts[client]
    digest = bytes(shards.digests()[client]).hex()
    lengths = shards.train.length[own].astype(np.int32)
    labels = shards.train.label_tokens[own].astype(np.int32)
    if exact:
        return RowFacts(len(own), digest, lengths, labels)
    return RowFacts(len(own), digest, means=_means(shards, client, lengths, labels))


def _means(
    shards: Shards, client: int, lengths: NDArray[np.int32], labels: NDArray[np.int32]
) -> BatchMeans:
    """Means over batches drawn as those of training are."""
    rows = np.arange(len(lengths), dtype=np.int64)
    drawn = local_batches(rows, shards.batch_size, MEAN_BATCHES, shards.seed, 0, client)
    return BatchMeans(
        longest=int(lengths.max()),
        width=float(lengths[drawn].max(axis=1).mean()),
        real_tokens=float(lengths[drawn].sum(axis=1).mean()),
        label_tokens=float(labels[drawn].sum(axis=1).mean()),
    )


def checked_facts(
    ready: Ready, parts: Mapping[str, bytes], client: int, config: ExperimentConfig
) -> RowFacts:
    """The facts in a client's report.

    Raises InputError, naming the client and what it states, for numbers that no rows could have.
    """
    most, name = config.data.max_tokens, f"client {client}: "
    if config.deploy.row_lengths == "means":
        if ready.means is None or parts:
            raise InputError(f"{name}row lengths", "each row's", "means (deploy.row_lengths)")
        _check_means(ready.means, most, config.training.batch_size, name)
        return RowFacts(ready.rows, ready.digest, means=ready.means)
    if ready.means is not None or set(parts) != {LENGTHS, LABELS}:
        raise InputError(f"{name}row lengths", "means", "those of each row (deploy.row_lengths)")
    lengths, labels = (
        _integers(parts[part], ready.rows, name + part) for part in (LENGTHS, LABELS)
    )
    if int(lengths.min()) < SHORTEST or int(lengths.max()) > most:
        raise InputError(
            f"{name}the lengths of its rows",
            f"from {lengths.min()} to {lengths.max()} tokens",
            f"from {SHORTEST} to {most}, data.max_tokens",
        )
    if int(labels.min()) < 1 or bool((labels >= lengths).any()):
        row = int(np.flatnonzero((labels < 1) | (labels >= lengths))[0])
        raise InputError(
            f"{name}the label tokens of row {row}",
            int(labels[row]),
            f"at least 1 and below its length {lengths[row]}",
        )
    return RowFacts(ready.rows, ready.digest, lengths, labels)


def _check_means(means: BatchMeans, most: int, batch_size: int, name: str) -> None:
    """Refuse means that contradict each other."""
    longest = batch_size * means.longest
    for field, value, least, largest in (
        ("the longest row", means.longest, SHORTEST, most),
        ("the mean width of a batch", means.width, SHORTEST, means.longest),
        ("the mean tokens of a batch", means.real_tokens, means.width, longest),
        ("the mean label tokens of a batch", means.label_tokens, batch_size, means.real_tokens),
    ):
        if not least <= value <= largest:
            raise InputError(f"{name}{field}", value, f"from {least:g} to {largest:g}")


def _integers(data: bytes, rows: int, field: str) -> NDArray[np.int32]:
    """An array of int32 [row] as it travelled."""
    if len(data) != 4 * rows:
        raise InputError(field, f"{len(data)} bytes", f"{4 * rows} for its {rows} rows")
    return np.frombuffer(data, dtype="<i4").astype(np.int32)


@dataclass(frozen=True)
class ReportedRows:
    """`experiment.shards.ClientRows` from what the clients reported, in the order of clients."""

    clients: Sequence[RowFacts]
    batch_size: int
    local_steps: int
    seed: int

    def rows(self, client: int) -> int:
        """Number of training rows of a client."""
        return self.clients[client].rows

    @property
    def train_rows(self) -> int:
        """Rows of all clients."""
        return sum(facts.rows for facts in self.clients)

    @property
    def redraws(self) -> int:
        """No partition is drawn where clients bring their rows."""
        return 0

    @property
    def notices(self) -> list[str]:
        """What was dropped or cut is known to the clients alone."""
        return []

    def longest_step(self, client: int) -> Step:
        """A batch of the longest row that a client holds."""
        return Step(self.batch_size, self.clients[client].longest)

    def step_shapes(self, client: int, round_index: int) -> list[Step]:
        """Sizes of the batches that the client will draw; from means, of mean batches."""
        facts = self.clients[client]
        if facts.means is not None:
            step = Step(
                self.batch_size,
                round(facts.means.width),
                label_tokens=round(facts.means.label_tokens),
            )
            return [step] * self.local_steps
        lengths, labels = self._drawn(client, round_index)
        return [
            Step(self.batch_size, int(own.max()), label_tokens=int(wanted.sum()))
            for own, wanted in zip(lengths, labels, strict=True)
        ]

    def cut_shapes(self, client: int, round_index: int) -> list[CutShape]:
        """What the length of a split model's messages depends on, for each of those batches."""
        means = self.clients[client].means
        if means is not None:
            shape = CutShape(
                self.batch_size,
                round(means.width),
                round(means.real_tokens),
                round(means.label_tokens),
            )
            return [shape] * self.local_steps
        lengths, labels = self._drawn(client, round_index)
        return [
            CutShape(self.batch_size, int(own.max()), int(own.sum()), int(wanted.sum()))
            for own, wanted in zip(lengths, labels, strict=True)
        ]

    @property
    def step_tokens(self) -> float:
        """Real tokens of an average local step."""
        return float(np.mean([self._mean_tokens(facts) for facts in self.clients]))

    def digests(self) -> NDArray[np.uint8]:
        """The digests that the clients stated [client, byte]."""
        rows = [bytes.fromhex(facts.digest)[:DIGEST_BYTES] for facts in self.clients]
        return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), DIGEST_BYTES).copy()

    def _mean_tokens(self, facts: RowFacts) -> float:
        if facts.means is not None:
            return facts.means.real_tokens
        assert facts.lengths is not None
        return self.batch_size * float(facts.lengths.mean())

    def _drawn(self, client: int, round_index: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Lengths and label tokens of the rows that are drawn, each [step, row of batch]."""
        facts = self.clients[client]
        assert facts.lengths is not None
        assert facts.labels is not None
        places = np.arange(facts.rows, dtype=np.int64)
        drawn = local_batches(
            places, self.batch_size, self.local_steps, self.seed, round_index, client
        )
        return facts.lengths[drawn], facts.labels[drawn]
