"""Tokenised examples, which client holds them, and which device each client is."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from airtune.config.data import template_inputs
from airtune.config.experiment import ExperimentConfig
from airtune.cost.device import DeviceProfile, find_device, load_devices
from airtune.data.batches import Batch, local_batches, make_batch, rows_alike
from airtune.data.encoding import Encoded, encode, pad_token, refuse_unknown_ids, turn_ends
from airtune.data.partition import Partition, by_file, partition
from airtune.data.sources import (
    SourceOptions,
    TaskData,
    load_task_data,
    load_test_data,
    overlap_notice,
    refuse_training_rows,
)
from airtune.data.tasks import Example
from airtune.data.template import NO_INPUTS, TemplateInputs, reads_date, template_text
from airtune.errors import InputError
from airtune.federated.facts import ClientFacts
from airtune.federated.records.fingerprint import DIGEST_BYTES
from airtune.tuning.base_model import CPU
from airtune.tuning.label_loss import TOKENS_AT_ONCE
from airtune.update.cut import CutShape
from airtune.workload.step import Step

_TOKENS_AT_ONCE = 1 << 20
"""Tokens of rows that are digested at once."""


@dataclass(frozen=True)
class TestRows:
    """The test rows of an experiment, which the server evaluates on.

    `task` has their examples and their score; `inputs` are those of the chat template;
    `shows_date`: it writes their day; `stops` are tokens, beside the end of text, that end an
    answer.
    """

    __test__ = False  # pytest would take it for a test

    task: TaskData
    encoded: Encoded
    pad_token: int
    inputs: TemplateInputs = NO_INPUTS
    shows_date: bool = False
    stops: tuple[int, ...] = ()

    def batches(self, tokens: int = TOKENS_AT_ONCE[CPU]) -> Iterator[Batch]:
        """Every test row once, about so many tokens at a time."""
        for rows in rows_alike(self.encoded.length, tokens):
            yield make_batch(self.encoded, rows, self.pad_token)

    @property
    def notices(self) -> list[str]:
        """What was chosen, dropped or cut, as sentences for the user."""
        parts = [self.task.notice, overlap_notice(self.task)]
        if self.shows_date:
            parts.append(f"The chat template shows the day {self.inputs.date} (data.date).")
        if self.encoded.notice:
            parts.append(f"Test data: {self.encoded.notice}")
        return [sentence for sentence in parts if sentence]


class ClientRows(ClientFacts, Protocol):
    """What a world knows of the clients' rows: their facts, and a digest of each client's shard.

    `train_rows` counts the rows of all clients; `redraws` the draws of the partition that left a
    client short; `notices` are sentences for the user.
    """

    @property
    def train_rows(self) -> int: ...
    @property
    def redraws(self) -> int: ...
    @property
    def step_tokens(self) -> float: ...
    @property
    def notices(self) -> list[str]: ...
    def digests(self) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Shards:
    """The rows of an experiment's clients in this process: `ClientRows` from the rows themselves.

    Client k holds the rows `parts[k]` of `train`.
    """

    train: Encoded
    parts: Partition
    pad_token: int
    batch_size: int
    local_steps: int
    seed: int

    def rows(self, client: int) -> int:
        """Number of training rows of a client."""
        return len(self.parts[client])

    def row_numbers(self, client: int, round_index: int) -> Any:
        """Row numbers of each local step [step, row of batch]."""
        return local_batches(
            self.parts[client], self.batch_size, self.local_steps, self.seed, round_index, client
        )

    def batches(self, client: int, round_index: int) -> list[Batch]:
        """What a client trains on in a round."""
        steps = self.row_numbers(client, round_index)
        return [make_batch(self.train, rows, self.pad_token) for rows in steps]

    def step_shapes(self, client: int, round_index: int) -> list[Step]:
        """Sizes of those batches, without making them."""
        rows = self.row_numbers(client, round_index)
        longest = self.train.length[rows].max(axis=1)
        labels = self.train.label_tokens[rows].sum(axis=1)
        return [
            Step(self.batch_size, int(tokens), label_tokens=int(count))
            for tokens, count in zip(longest, labels, strict=True)
        ]

    def longest_step(self, client: int) -> Step:
        """A batch of the longest row that a client holds."""
        longest = int(self.train.length[self.parts[client]].max())
        return Step(self.batch_size, longest)

    @property
    def step_tokens(self) -> float:
        """Real tokens of an average local step."""
        return self.batch_size * float(self.train.length.mean())

    def cut_shapes(self, client: int, round_index: int) -> list[CutShape]:
        """What the length of a split model's messages depends on, for each of those batches."""
        return [CutShape.of(batch) for batch in self.batches(client, round_index)]

    @property
    def train_rows(self) -> int:
        """Rows of all clients."""
        return len(self.train)

    @property
    def redraws(self) -> int:
        """Draws of the partition that left a client short."""
        return self.parts.redraws

    def digests(self) -> NDArray[np.uint8]:
        """A digest of each client's rows [client, byte]."""
        return shard_digests(self.train, self.parts)

    @property
    def notices(self) -> list[str]:
        """What was drawn again, dropped or cut, as sentences for the user."""
        parts = []
        if self.parts.redraws:
            parts.append(
                f"The partition was drawn {self.parts.redraws + 1} times, until every client had "
                "the rows that data.partition.min_rows requires."
            )
        if self.train.notice:
            parts.append(f"Training data: {self.train.notice}")
        return parts


def with_template(config: ExperimentConfig, tokenizer: Any) -> ExperimentConfig:
    """The experiment with the day that its chat template shows: today where it leaves it open.

    The day goes into the resolved experiment, so that a resumed run shows the same one. A template
    of the experiment's own goes into the tokenizer, with which the model is written out.
    """
    named = getattr(tokenizer, "chat_template", None)
    text = template_text(tokenizer, template_inputs(config.data))
    if config.data.chat_template is not None and not isinstance(named, Mapping):
        tokenizer.chat_template = text
    if config.data.date is not None or not reads_date(text):
        return config
    data = config.data.model_copy(update={"date": date.today().isoformat()})
    return config.model_copy(update={"data": data})


@dataclass(frozen=True)
class EncodedRows:
    """The tokenised rows of an experiment, before clients hold them."""

    task: TaskData
    train: Encoded
    tests: TestRows


def encoded_rows(
    config: ExperimentConfig, tokenizer: Any, longest: int, embeddings: int
) -> EncodedRows:
    """Load and tokenise the data; arguments and errors as for `load_rows`."""
    refuse_long_rows(config, longest)
    data = config.data
    task = load_task_data(data.train, data.test, source_options(config), config.seed)
    refuse_training_rows(data.train, data.test, task)
    inputs = template_inputs(data)
    train = encode(tokenizer, task.train, data.max_tokens, task.separator, inputs)
    refuse_unknown_ids(tokenizer, train.token_ids, embeddings)
    return EncodedRows(task, train, tests_of(config, tokenizer, embeddings, task))


def divided(config: ExperimentConfig, rows: EncodedRows) -> Shards:
    """The rows over the experiment's clients; InputError for an empty shard."""
    examples = [rows.task.train[index] for index in rows.train.example]
    parts = _parts(config, rows.task, examples)
    training = config.training
    return Shards(
        rows.train,
        parts,
        rows.tests.pad_token,
        training.batch_size,
        training.local_steps,
        config.seed,
    )


def load_rows(
    config: ExperimentConfig, tokenizer: Any, longest: int, embeddings: int
) -> tuple[TestRows, Shards]:
    """Load, tokenise and partition the data: what the server and what the clients hold.

    `longest` is the model's own limit of tokens, `embeddings` the number of ids in its vocabulary.
    Raises InputError for unreadable sources, an empty shard, or a token limit or ids above the
    model's.
    """
    rows = encoded_rows(config, tokenizer, longest, embeddings)
    return rows.tests, divided(config, rows)


def load_tests(config: ExperimentConfig, tokenizer: Any, longest: int, embeddings: int) -> TestRows:
    """The test rows alone, where the clients hold the training rows; errors as in `load_rows`."""
    refuse_long_rows(config, longest)
    data = config.data
    task = load_test_data(data.train, data.test, source_options(config), config.seed)
    return tests_of(config, tokenizer, embeddings, task)


def refuse_long_rows(config: ExperimentConfig, longest: int) -> None:
    """InputError where rows may be longer than the model's own limit of tokens."""
    if config.data.max_tokens > longest:
        raise InputError(
            "data.max_tokens",
            config.data.max_tokens,
            f"at most {longest}, the model's own limit",
        )


def source_options(config: ExperimentConfig) -> SourceOptions:
    """How the experiment's sources are read."""
    data = config.data
    return SourceOptions(
        data.format,
        data.prompt_column,
        data.completion_column,
        data.train_limit,
        data.test_limit,
        data.delimiter,
    )


def tests_of(config: ExperimentConfig, tokenizer: Any, embeddings: int, task: TaskData) -> TestRows:
    """The tokenised test rows of a task."""
    inputs = template_inputs(config.data)
    encoded = encode(tokenizer, task.test, config.data.max_tokens, task.separator, inputs)
    refuse_unknown_ids(tokenizer, encoded.token_ids, embeddings)
    padding = pad_token(tokenizer)
    if any(example.whole for example in task.test):  # no template lays them out
        return TestRows(task, encoded, padding, inputs)
    shows_date = reads_date(template_text(tokenizer, inputs))
    return TestRows(task, encoded, padding, inputs, shows_date, turn_ends(tokenizer, inputs))


def _parts(config: ExperimentConfig, task: TaskData, examples: Sequence[Example]) -> Partition:
    """Which client holds which rows: as the files say, or as the experiment draws it."""
    wanted, count = config.data.partition, config.clients.count
    if task.clients is not None:
        if wanted.kind != "iid":
            raise InputError(
                "data.partition.kind",
                wanted.kind,
                "left out where data.train has a file for each client",
                "the files are the partition",
            )
        owners = [example.client for example in examples]
        return by_file(owners, task.clients, count, wanted.min_rows)
    return partition(
        examples,
        count,
        wanted.kind,
        wanted.concentration,
        wanted.column,
        config.seed,
        wanted.min_rows,
    )


def deal_devices(config: ExperimentConfig) -> tuple[DeviceProfile, ...]:
    """The profiles of `clients.devices`, assigned round-robin."""
    own = config.clients.device_file
    known = load_devices(Path(own) if own else None)
    kinds = [find_device(name, known, "clients.devices") for name in config.clients.devices]
    return tuple(kinds[client % len(kinds)] for client in range(config.clients.count))


def shard_digests(rows: Encoded, parts: Partition) -> NDArray[np.uint8]:
    """SHA-256 of each client's rows, in the order in which it holds them [client, byte], cut short.

    Of three digests: of the lengths of rows and prompts, of the tokens, and of which are labels.
    """
    digests = np.zeros((len(parts.sizes), DIGEST_BYTES), np.uint8)
    lengths = rows.length
    for client in range(len(digests)):
        own = np.asarray(parts[client])
        shape, tokens, labels = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        shape.update(lengths[own].astype("<i8").tobytes())
        shape.update(rows.prompt_length[own].astype("<i8").tobytes())
        for places in _places(rows.starts, own, lengths):
            tokens.update(rows.token_ids[places].astype("<i4").tobytes())
            labels.update(rows.label[places].tobytes())
        whole = hashlib.sha256(shape.digest() + tokens.digest() + labels.digest())
        digests[client] = np.frombuffer(whole.digest()[:DIGEST_BYTES], np.uint8)
    return digests


def _places(
    starts: NDArray[np.int64], own: NDArray[np.int64], lengths: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Where the tokens of some rows lie, row after row, about so many at a time."""
    ends = np.cumsum(lengths[own])
    first = 0
    while first < len(own):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _TOKENS_AT_ONCE)))
        part = own[first:last]
        # Token i of the part lies at its row's start plus its place in the row.
        row_began = np.cumsum(lengths[part]) - lengths[part]
        shift = np.repeat(starts[part] - row_began, lengths[part])
        yield np.arange(len(shift)) + shift
        first = last
