"""The shards of a simulation as files: rows of every kind of source, simulated to the same rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airtune.deploy.shard_files import write_shards
from airtune.errors import InputError
from airtune.experiment import Experiment
from airtune.experiment.shards import Shards, TestRows, load_rows
from airtune.tuning.base_model import load_tokenizer
from airtune.workload.architecture import load_architecture
from tests.data.files import write
from tests.data.test_encoding import CHAT
from tests.data.test_row_formats import ALPACA, DOLLY, LMSYS, SHAREGPT, TABLE, TEXTS, TRL

CASES: dict[str, tuple[str, list[Any], str | None]] = {
    "alpaca array": (".json", ALPACA, None),
    "alpaca with missing inputs": (".jsonl", [*ALPACA, {"instruction": "x", "output": "y"}], None),
    "dolly, compressed": (".jsonl.gz", DOLLY, None),
    "texts between tabs": (".tsv", TEXTS, None),
    "a table between semicolons": (".csv", TABLE, ";"),
    "prompts and completions of turns": (".json", TRL, None),
    "conversations": (".jsonl", SHAREGPT, None),
    "parquet": (".parquet", LMSYS, None),
}


def _rows_of(**data: Any) -> tuple[TestRows, Shards]:
    config = Experiment(data={"max_tokens": 480, **data}, clients={"count": 3}).config
    architecture = load_architecture("builtin")
    tokenizer = load_tokenizer("builtin")
    return load_rows(config, tokenizer, architecture.max_tokens, architecture.vocab_size)


def _other(value: Any) -> Any:
    """The same row with other answers, as in no training row."""
    if isinstance(value, list):
        return [_other(entry) for entry in value]
    answers = ("output", "response", "text", "completion", "content", "value")
    return {
        key: f"{inner}?"
        if key in answers and isinstance(inner, str)
        else _other(inner)
        if isinstance(inner, list)
        else inner
        for key, inner in value.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_shards_simulate_to_the_same_rows(tmp_path: Path, name: str) -> None:
    kind, rows, delimiter = CASES[name]
    marked = [{**row, "user": f"u{n}"} for n, row in enumerate(rows * 5)]
    keys: dict[str, Any] = {"train": write(tmp_path / f"rows{kind}", marked, delimiter)}
    keys["test"] = write(tmp_path / f"test{kind}", [*rows, *_other(rows)], delimiter)
    if delimiter is not None:
        keys["delimiter"] = delimiter
    if "turns" in name or "conversations" in name:
        (tmp_path / "turns.jinja").write_text(CHAT)
        keys["chat_template"] = str(tmp_path / "turns.jinja")
    tests, shards = _rows_of(**keys)
    config = Experiment(data={"max_tokens": 480, **keys}, clients={"count": 3}).config
    write_shards(config, tmp_path / "shards")
    template = keys.get("chat_template")
    again, simulated = _rows_of(train=str(tmp_path / "shards"), chat_template=template)
    assert np.array_equal(simulated.digests(), shards.digests())
    assert np.array_equal(again.encoded.token_ids, tests.encoded.token_ids)
    assert np.array_equal(again.encoded.label, tests.encoded.label)
    columns = [example.columns for example in again.task.test]
    assert columns == [example.columns for example in tests.task.test]


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n", "\r", "\x00", 1, True, ["|"]])
def test_a_delimiter_is_one_character(delimiter: Any) -> None:
    with pytest.raises(InputError, match=r"data\.delimiter is .*one character"):
        Experiment(data={"delimiter": delimiter})
    assert Experiment(data={"delimiter": "\t"}).config.data.delimiter == "\t"
