"""The real data sets: every row reads, and the counts that were measured on them hold."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airtune.data.encoding import encode
from airtune.data.partition import partition
from airtune.data.sources import SourceOptions, load_task_data
from airtune.data.tasks import FINAL_NUMBER, final_number, mean_score


@pytest.fixture(scope="module")
def stories_tokenizer(real_data: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(real_data / "stories260K" / "hf")


def test_gsm8k(real_data: Path) -> None:
    data = load_task_data(str(real_data / "gsm8k"))
    assert (data.format_name, len(data.train), len(data.test)) == ("gsm8k", 7473, 1319)
    assert data.score is FINAL_NUMBER
    labels = Counter(example.label for example in data.train)
    assert set(labels) == set("2345678")
    assert all(final_number(example.completion) is not None for example in data.train)
    assert all(FINAL_NUMBER.of(example, example.completion) for example in data.test)


def test_gsm8k_answer_lines_by_hand(real_data: Path) -> None:
    """An independent count of the lines before `####`."""
    with (real_data / "gsm8k" / "test.jsonl").open() as stream:
        answers = [json.loads(line)["answer"] for line in stream]
    worked = [answer.split("####")[0].split("\n") for answer in answers]
    counted = [str(min(8, sum(line != "" for line in lines))) for lines in worked]
    data = load_task_data(str(real_data / "gsm8k"))
    assert [example.label for example in data.test] == counted


def test_gsm8k_at_256_tokens(real_data: Path, stories_tokenizer: Any) -> None:
    """73 % of the rows are too long for 256 tokens of this tokenizer; the labels stay whole."""
    data = load_task_data(str(real_data / "gsm8k"), None, SourceOptions(train_limit=1500))
    encoded = encode(stories_tokenizer, data.train, 256)
    assert len(encoded) + encoded.too_long == 1500
    assert (encoded.cut + encoded.too_long) / 1500 == pytest.approx(0.73, abs=0.04)
    assert encoded.label_tokens.min() >= 2
    assert encoded.length.max() <= 256
    assert "cut from the left" in encoded.notice
    end = encoded.token_ids[encoded.starts[1:] - 1]
    assert (end == stories_tokenizer.eos_token_id).all()
    roomy = encode(stories_tokenizer, data.train, 2048)
    assert roomy.notice == ""


def test_gsm8k_over_twenty_clients(real_data: Path) -> None:
    data = load_task_data(str(real_data / "gsm8k"))
    parts = partition(data.train, 20, "dirichlet", 0.5, seed=0)
    assert sorted(np.concatenate([parts[client] for client in range(20)])) == list(range(7473))


def test_e2e(real_data: Path) -> None:
    data = load_task_data(str(real_data / "e2e_nlg"))
    assert (data.format_name, len(data.train), len(data.test)) == ("e2e", 42061, 4672)
    assert Counter(example.label for example in data.train)["Japanese"] == 5996
    assert data.score is not None
    # The references were written by people, who left slots out: the ceiling is below 1.
    some = data.test[::8]
    assert 0.8 < mean_score(data.score, some, [example.completion for example in some]) < 1
    others = [example.completion for example in data.test[1000::8]]
    assert mean_score(data.score, some[: len(others)], others) < 0.5
    parts = partition(data.train, 20, "dirichlet", 0.5, seed=0)
    assert parts.sizes.sum() == 42061
