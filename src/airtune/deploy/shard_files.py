"""The rows of a simulated experiment as files, one for each client, and the test rows.

Each row is written as its source has it, so that the experiment's format options hold for the
files, too. Rows that the experiment drops are not written; the rest are its shards.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from airtune.config.experiment import ExperimentConfig
from airtune.data.cells import Flag, Json
from airtune.data.opening import source_rows
from airtune.data.tasks import Example
from airtune.errors import InputError
from airtune.experiment.loading import prepared
from airtune.experiment.shards import load_rows, with_template
from airtune.files import make_folder, write_text_atomic
from airtune.tuning.base_model import load_tokenizer
from airtune.workload.architecture import load_architecture

SUFFIX = ".jsonl"


@dataclass(frozen=True)
class WrittenShards:
    """Rows written [client], and of the test file."""

    clients: tuple[int, ...]
    tests: int
    suffix: str = SUFFIX


def write_shards(config: ExperimentConfig, folder: Path) -> WrittenShards:
    """Write `client-0.jsonl` and so on, and `test.jsonl`, into a new or empty folder.

    Raises InputError for a folder that holds something, or an experiment without such data.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("DIR", str(folder), "a new or empty folder", "choose another one")
    config = prepared(config)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    config = with_template(config, tokenizer)
    architecture = load_architecture(config.model)
    tests, shards = load_rows(
        config, tokenizer, architecture.max_tokens, max(architecture.vocab_size, len(tokenizer))
    )
    train = tests.task.train
    own = [
        [train[int(shards.train.example[row])] for row in shards.parts[client]]
        for client in range(len(shards.parts))
    ]
    rows = _original_rows(config, chain(tests.task.test, *own))
    make_folder("DIR", folder)
    for client, examples in enumerate(own):
        _write(folder / f"client-{client}{SUFFIX}", map(rows, examples))
    _write(folder / f"test{SUFFIX}", map(rows, tests.task.test))
    return WrittenShards(tuple(map(len, own)), len(tests.task.test))


def _original_rows(config: ExperimentConfig, examples: Iterable[Example]) -> Any:
    """From an example to its row in the source; of a built-in task, prompt and completion."""
    places = {example.place for example in examples}
    if places == {""}:
        return lambda example: {"prompt": example.prompt, "completion": example.completion}
    found: dict[str, dict[str, Any]] = {}
    for place, row in _rows(config):
        if place in places:
            found[place] = {column: _value(text) for column, text in row.items()}
    return lambda example: found[example.place]


def _rows(config: ExperimentConfig) -> Iterator[tuple[str, Mapping[str, str]]]:
    delimiter = config.data.delimiter
    yield from source_rows(config.data.train, "data.train", delimiter)
    if config.data.test is not None:
        yield from source_rows(config.data.test, "data.test", delimiter)


def _value(text: str) -> Any:
    """A text as JSON rows have it: conversations as lists, flags as flags."""
    if isinstance(text, Flag):
        return text == "true"
    return json.loads(text) if isinstance(text, Json) else text


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text_atomic(path, "".join(lines))
