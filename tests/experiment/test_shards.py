"""What an experiment says about its data, and when it refuses them."""

import json
from pathlib import Path
from typing import Any

import pytest

from airtune import Experiment
from airtune.config.experiment import ExperimentConfig
from airtune.data.sources import load_task_data
from airtune.errors import InputError
from airtune.experiment.shards import Shards, TestRows, load_rows
from airtune.section import check
from tests.data.test_encoding import byte_tokenizer

TOKENIZER = byte_tokenizer()


def _rows(path: Path) -> Path:
    lines = [{"prompt": f"p{n}", "completion": "c", "label": str(n % 4)} for n in range(400)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _rows_of(embeddings: int = 261, **keys: Any) -> tuple[TestRows, Shards]:
    return load_rows(check(ExperimentConfig, keys), TOKENIZER, 512, embeddings)


def _shards(embeddings: int = 261, **keys: Any) -> Shards:
    return _rows_of(embeddings, **keys)[1]


def test_redraws_are_said(tmp_path: Path) -> None:
    data = {"train": _rows(tmp_path / "a.jsonl"), "partition": {"kind": "dirichlet"}}
    calm = _shards(data=data, clients={"count": 8})
    assert calm.parts.redraws == 0
    assert not any("drawn" in notice for notice in calm.notices)
    data["partition"] = {"kind": "dirichlet", "min_rows": 25}
    often = _shards(data=data, clients={"count": 8})
    assert often.parts.redraws > 0
    assert often.parts.sizes.min() >= 25
    assert any(f"drawn {often.parts.redraws + 1} times" in notice for notice in often.notices)


def test_a_test_set_of_training_rows_is_refused(tmp_path: Path) -> None:
    train = _rows(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match=r"data\.test is .*the same file as data\.train"):
        _shards(data={"train": train, "test": tmp_path / "." / "a.jsonl"})
    other = tmp_path / "b.jsonl"
    other.write_text('{"prompt": "p1", "completion": "c"}\n{"prompt": "x", "completion": "c"}\n')
    notices = _rows_of(data={"train": train, "test": other})[0].notices
    assert "1 of 2 test rows are training rows, too." in notices


def test_ids_that_the_model_lacks_are_named() -> None:
    with pytest.raises(InputError, match=r"below 100, the rows of its embedding"):
        _shards(embeddings=100)


def test_a_run_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--out is a text with '\\udcff'"):
        Experiment().run(tmp_path / "r\udcff")


@pytest.mark.slow
def test_a_file_for_each_client_is_the_partition(tmp_path: Path) -> None:
    """The same shards as those that were drawn, once each is in a file of its own."""
    drawn = _shards(clients={"count": 3})
    examples = load_task_data("builtin").train
    folder = tmp_path / "shards"
    folder.mkdir()
    for client in range(3):
        lines = [
            {"prompt": examples[row].prompt, "completion": examples[row].completion}
            for row in drawn.parts[client]
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"client-{client}.jsonl").write_text(text)
    _rows(folder / "test.jsonl")
    _, read = _rows_of(data={"train": str(folder)}, clients={"count": 3})
    assert (read.digests() == drawn.digests()).all()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"clients": {"count": 4}}, r"clients\.count is 4, but it must be 3, the number of files"),
        ({"data": {"partition": {"kind": "size"}}}, r"data\.partition\.kind is size"),
        ({"data": {"partition": {"min_rows": 4000}}}, r"at most \d+, the rows in the file of"),
    ]
    for keys, problem in cases:
        keys.setdefault("clients", {"count": 3})
        keys["data"] = {"train": str(folder), **keys.get("data", {})}
        with pytest.raises(InputError, match=problem):
            _rows_of(**keys)
    (folder / "client-1.jsonl").rename(folder / "client-7.jsonl")
    with pytest.raises(InputError, match=r"3 files of clients, none of client 1"):
        _rows_of(data={"train": str(folder)}, clients={"count": 3})
