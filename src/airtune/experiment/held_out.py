"""Held-out rows of each client, for methods in which every client keeps a part of the adapter.

The test rows are dealt to the clients as the training rows lie: of each label (or value of the
partition's column) a client has the share that it has of the training rows with it, rounded by the
largest remainder; where there are no labels, or a label is in no training row, in proportion to the
sizes of the shards. So all clients together are evaluated on the test rows that other methods are
evaluated on, every row with the adapter of one client.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from airtune.config.experiment import ExperimentConfig
from airtune.data.batches import make_batch, rows_alike
from airtune.data.partition import column_values
from airtune.data.tasks import Example
from airtune.errors import InputError
from airtune.experiment.shards import ClientRows, Shards, TestRows
from airtune.federated.context import EvaluateOwn
from airtune.quantities import FloatArray
from airtune.seeds import generator
from airtune.tuning.adapter import load_state
from airtune.tuning.evaluate import ClientEvaluation, Evaluation, batch_losses, total_loss
from airtune.tuning.kept import own_part
from airtune.tuning.local import TokenBatch

Rows = NDArray[np.int64]


def dealt(
    labels: Sequence[str], train_labels: Sequence[str], owner: Rows, clients: int, seed: int
) -> list[Rows]:
    """Test rows of each client, ascending: see the module.

    Args:
        labels: of the test rows.
        train_labels: of the training rows; `owner` [row] is who has them.
    """
    names = sorted({*labels, *train_labels})
    number = {name: index for index, name in enumerate(names)}
    counts = np.zeros((len(names), clients))
    held = np.array([number[label] for label in train_labels], dtype=np.int64)
    np.add.at(counts, (held, owner), 1.0)
    sizes = counts.sum(axis=0)
    rows_of: list[list[Rows]] = [[] for _ in range(clients)]
    found = np.array([number[label] for label in labels], dtype=np.int64)
    for label in np.unique(found):
        rows = np.flatnonzero(found == label)
        draws = generator(seed, f"held-out rows {names[label]}")
        share = counts[label] if counts[label].any() else sizes
        ends = np.cumsum(_whole_shares(share / share.sum() * len(rows), draws))
        for client, part in enumerate(np.split(draws.permutation(rows), ends[:-1])):
            rows_of[client].append(part)
    return [np.sort(np.concatenate(parts)).astype(np.int64) for parts in rows_of]


def _whole_shares(exact: FloatArray, draws: np.random.Generator) -> Rows:
    """Whole numbers of the same sum by the largest remainder; of equal ones, drawn at random."""
    sizes = np.floor(exact + 1e-9).astype(np.int64)
    missing = round(float(exact.sum())) - int(sizes.sum())
    order = draws.permutation(len(exact))
    largest = order[np.argsort(-(exact - sizes)[order], kind="stable")]
    sizes[largest[:missing]] += 1
    return sizes


def held_out_rows(config: ExperimentConfig, tests: TestRows, shards: Shards) -> list[Rows]:
    """The test rows of each client."""
    task, clients = tests.task, len(shards.parts)
    owner = np.empty(len(shards.train), dtype=np.int64)
    for client in range(clients):
        owner[shards.parts[client]] = client
    train = [task.train[int(index)] for index in shards.train.example]
    test = [task.test[int(index)] for index in tests.encoded.example]
    return dealt(_labels(config, test), _labels(config, train), owner, clients, config.seed)


def _labels(config: ExperimentConfig, examples: Sequence[Example]) -> list[str]:
    column = config.data.partition.column
    if column is None:
        return [example.label for example in examples]
    try:
        return column_values(examples, column)
    except InputError:  # test rows need not have the column
        return [""] * len(examples)


def own_evaluator(
    config: ExperimentConfig,
    model: Any,
    tests: TestRows,
    rows: ClientRows,
    tokens: int,
    evaluate: Callable[[Mapping[str, Tensor]], Evaluation],
) -> EvaluateOwn:
    """Evaluates every client on its held-out rows, with the part of the adapter that it keeps.

    Where no client keeps one now, `evaluate` gives the loss of the adapter.
    """
    assert isinstance(rows, Shards), "clients on other machines are refused before"
    shards = rows

    @cache
    def batches() -> list[list[TokenBatch]]:
        parts = held_out_rows(config, tests, shards)
        return [list(_batches(tests, part, tokens)) for part in parts]

    def measure(
        adapter: Mapping[str, Tensor], carried: Mapping[int, Mapping[str, Tensor]]
    ) -> Evaluation:
        parts = {client: own_part(carried[client]) for client in carried if client >= 0}
        if not any(parts.values()):
            return evaluate(adapter)
        losses = []
        of_clients: dict[int, float] = {}
        for client, own_batches in enumerate(batches()):
            if own_batches:
                load_state(model, {**adapter, **parts.get(client, {})})
                found = batch_losses(model, own_batches)
                of_clients[client] = total_loss(found).loss
                losses += found
        total = total_loss(losses)
        return ClientEvaluation(total.loss, total.label_tokens, of_clients)

    return measure


def _batches(tests: TestRows, rows: Rows, tokens: int) -> Sequence[TokenBatch]:
    make = partial(make_batch, tests.encoded, pad_token=tests.pad_token)
    return [make(rows[part]) for part in rows_alike(tests.encoded.length[rows], tokens)]


def mean_adapter(
    adapter: Mapping[str, Tensor],
    carried: Mapping[int, Mapping[str, Tensor]],
    weights: FloatArray,
) -> dict[str, Tensor]:
    """The mean of all clients' adapters, weighted by `weights` [client].

    What one adapter folder can hold where each client has its own. A client without a part of its
    own counts with the server's.
    """
    share, parts = weights / weights.sum(), {n: own_part(carried[n]) for n in carried if n >= 0}
    merged = dict(adapter)
    for name, value in adapter.items():
        holders = [client for client, part in sorted(parts.items()) if name in part]
        if holders:
            rest = 1.0 - sum(float(share[client]) for client in holders)
            mean = rest * value.double()
            for client in holders:
                mean = mean + float(share[client]) * parts[client][name].double()
            merged[name] = mean.to(value.dtype)
    return merged
