"""What an experiment says about its data, and when it refuses them."""

import json
from pathlib import Path
from typing import Any

import pytest

from airtune import Experiment
from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError
from airtune.experiment.shards import Shards, load_shards
from airtune.section import check
from tests.data.test_encoding import byte_tokenizer

TOKENIZER = byte_tokenizer()


def _rows(path: Path) -> Path:
    lines = [{"prompt": f"p{n}", "completion": "c", "label": str(n % 4)} for n in range(400)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _shards(embeddings: int = 261, **keys: Any) -> Shards:
    return load_shards(check(ExperimentConfig, keys), TOKENIZER, 512, embeddings)


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
    notices = _shards(data={"train": train, "test": other}).notices
    assert "1 of 2 test rows are training rows, too." in notices


def test_ids_that_the_model_lacks_are_named() -> None:
    with pytest.raises(InputError, match=r"below 100, the rows of its embedding"):
        _shards(embeddings=100)


def test_a_run_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--out is a text with '\\udcff'"):
        Experiment().run(tmp_path / "r\udcff")
