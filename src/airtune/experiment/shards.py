"""Tokenised examples, which client holds them, and which device each client is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from airtune.config.data import template_inputs
from airtune.config.experiment import ExperimentConfig
from airtune.cost.device import DeviceProfile, find_device, load_devices
from airtune.data.batches import Batch, local_batches, make_batch, rows_alike
from airtune.data.encoding import Encoded, encode, pad_token, refuse_unknown_ids, turn_ends
from airtune.data.partition import Partition, partition
from airtune.data.sources import (
    SourceOptions,
    TaskData,
    load_task_data,
    overlap_notice,
    refuse_training_rows,
)
from airtune.data.template import NO_INPUTS, TemplateInputs, reads_date, template_text
from airtune.errors import InputError
from airtune.tuning.base_model import CPU
from airtune.tuning.label_loss import TOKENS_AT_ONCE
from airtune.update.cut import CutShape
from airtune.workload.step import Step


@dataclass(frozen=True)
class Shards:
    """The data of an experiment as its clients hold it; `ClientFacts` from local rows.

    `inputs` are those of the chat template; `shows_date`: it writes their day; `stops` are
    tokens, beside the end of text, that end an answer.
    """

    task: TaskData
    train: Encoded
    test: Encoded
    parts: Partition
    pad_token: int
    batch_size: int
    local_steps: int
    seed: int
    inputs: TemplateInputs = NO_INPUTS
    shows_date: bool = False
    stops: tuple[int, ...] = ()

    def rows(self, client: int) -> int:
        """Number of training rows of a client."""
        return len(self.parts[client])

    def row_numbers(self, client: int, round_index: int) -> Any:
        """Row numbers of each local step [step, row of batch]."""
        return local_batches(
            self.parts[client], self.batch_size, self.local_steps, self.seed, round_index, client
        )

    def batches(self, client: int, round_index: int, most: int | None = None) -> list[Batch]:
        """What a client trains on in a round, or in its first steps."""
        steps = self.row_numbers(client, round_index)[:most]
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

    def test_batches(self, tokens: int = TOKENS_AT_ONCE[CPU]) -> Iterator[Batch]:
        """Every test row once, about so many tokens at a time."""
        for rows in rows_alike(self.test.length, tokens):
            yield make_batch(self.test, rows, self.pad_token)

    @property
    def notices(self) -> list[str]:
        """What was chosen, dropped or cut, as sentences for the user."""
        parts = [self.task.notice, overlap_notice(self.task)]
        if self.parts.redraws:
            parts.append(
                f"The partition was drawn {self.parts.redraws + 1} times, until every client had "
                "the rows that data.partition.min_rows requires."
            )
        if self.shows_date:
            parts.append(f"The chat template shows the day {self.inputs.date} (data.date).")
        parts += [
            f"{name} data: {encoded.notice}" if encoded.notice else ""
            for name, encoded in (("Training", self.train), ("Test", self.test))
        ]
        return [sentence for sentence in parts if sentence]


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


def load_shards(config: ExperimentConfig, tokenizer: Any, longest: int, embeddings: int) -> Shards:
    """Load, tokenise and partition the data.

    `longest` is the model's own limit of tokens, `embeddings` the number of ids in its vocabulary.
    Raises InputError for unreadable sources, an empty shard, or a token limit or ids above the
    model's.
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
    refuse_training_rows(data.train, data.test, task)
    inputs = template_inputs(data)
    train = encode(tokenizer, task.train, data.max_tokens, task.separator, inputs)
    test = encode(tokenizer, task.test, data.max_tokens, task.separator, inputs)
    for encoded in (train, test):
        refuse_unknown_ids(tokenizer, encoded.token_ids, embeddings)
    parts = partition(
        [task.train[index] for index in train.example],
        config.clients.count,
        data.partition.kind,
        data.partition.concentration,
        data.partition.column,
        config.seed,
        data.partition.min_rows,
    )
    return Shards(
        task,
        train,
        test,
        parts,
        pad_token(tokenizer),
        config.training.batch_size,
        config.training.local_steps,
        config.seed,
        inputs,
        reads_date(template_text(tokenizer, inputs)),
        turn_ends(tokenizer, inputs),
    )


def deal_devices(config: ExperimentConfig) -> tuple[DeviceProfile, ...]:
    """The profiles of `clients.devices`, assigned round-robin."""
    own = config.clients.device_file
    known = load_devices(Path(own) if own else None)
    kinds = [find_device(name, known, "clients.devices") for name in config.clients.devices]
    return tuple(kinds[client % len(kinds)] for client in range(config.clients.count))
