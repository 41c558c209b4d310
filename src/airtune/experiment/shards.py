"""Tokenised examples and who holds them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from airtune.config import ExperimentConfig
from airtune.data.batches import Batch, local_batches, make_batch, rows_alike
from airtune.data.encoding import Encoded, encode
from airtune.data.partition import Partition, partition
from airtune.data.sources import SourceOptions, TaskData, load_task_data
from airtune.errors import InputError
from airtune.federated.charges import StepShape
from airtune.tuning.base_model import CPU
from airtune.tuning.label_loss import TOKENS_AT_ONCE
from airtune.update.cut import CutShape


@dataclass(frozen=True)
class Shards:
    """The data of an experiment as its clients hold it."""

    task: TaskData
    train: Encoded
    test: Encoded
    parts: Partition
    pad_token: int
    batch_size: int
    local_steps: int
    seed: int

    def rows(self, client: int, round_index: int) -> Any:
        """Row numbers of each local step [step, row of batch]."""
        return local_batches(
            self.parts[client], self.batch_size, self.local_steps, self.seed, round_index, client
        )

    def batches(self, client: int, round_index: int) -> list[Batch]:
        """What a client trains on in a round."""
        return [
            make_batch(self.train, rows, self.pad_token) for rows in self.rows(client, round_index)
        ]

    def step_shapes(self, client: int, round_index: int) -> list[StepShape]:
        """Shapes of those batches, without making them."""
        longest = self.train.length[self.rows(client, round_index)].max(axis=1)
        return [(self.batch_size, int(tokens)) for tokens in longest]

    @property
    def step_tokens(self) -> float:
        """Real tokens of an average local step."""
        return self.batch_size * float(self.train.length.mean())

    def cut_shapes(self, client: int, round_index: int) -> list[CutShape]:
        """What the length of a split model's messages depends on, for each of those batches."""
        return [CutShape.of(batch) for batch in self.batches(client, round_index)]

    def test_batches(self, tokens: int = TOKENS_AT_ONCE[CPU]) -> Iterator[Batch]:
        """Every test row once, about so many tokens at a time."""
        for rows in rows_alike(self.test.length, tokens):
            yield make_batch(self.test, rows, self.pad_token)

    @property
    def notices(self) -> list[str]:
        """What was chosen, dropped or cut, as sentences for the user."""
        parts = [self.task.notice]
        parts += [
            f"{name} data: {encoded.notice}" if encoded.notice else ""
            for name, encoded in (("Training", self.train), ("Test", self.test))
        ]
        return [sentence for sentence in parts if sentence]


def load_shards(config: ExperimentConfig, tokenizer: Any, longest: int) -> Shards:
    """Load, tokenise and deal out the data; `longest` is the model's own limit of tokens.

    Raises InputError for unreadable sources, an empty shard, or a token limit above the model's.
    """
    data = config.data
    if data.max_tokens > longest:
        raise InputError(
            "data.max_tokens", data.max_tokens, f"at most {longest}, the model's own limit"
        )
    options = SourceOptions(
        data.format, data.prompt_column, data.completion_column, data.train_limit, data.test_limit
    )
    task = load_task_data(data.train, data.test, options, config.seed)
    train = encode(tokenizer, task.train, data.max_tokens, task.separator)
    test = encode(tokenizer, task.test, data.max_tokens, task.separator)
    parts = partition(
        [task.train[index] for index in train.example],
        config.clients.count,
        data.partition.kind,
        data.partition.concentration,
        data.partition.column,
        config.seed,
    )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Shards(
        task,
        train,
        test,
        parts,
        pad or 0,
        config.training.batch_size,
        config.training.local_steps,
        config.seed,
    )
