"""What clients report gives the server the same numbers as the rows would."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from airtune.config.experiment import DeploySection, ExperimentConfig
from airtune.deploy.facts import (
    LABELS,
    LENGTHS,
    ReportedRows,
    checked_facts,
    local_facts,
    parts_of,
)
from airtune.deploy.messages import BatchMeans, Ready
from airtune.errors import InputError
from airtune.experiment.shards import Shards, load_rows
from airtune.section import check
from tests.data.test_encoding import byte_tokenizer

CLIENTS = 3


def _config(row_lengths: str = "exact") -> ExperimentConfig:
    keys: dict[str, Any] = {
        "clients": {"count": CLIENTS},
        "data": {"train_limit": 90, "partition": {"kind": "size"}},
        "deploy": {"row_lengths": row_lengths},
        "training": {"batch_size": 3, "local_steps": 4},
    }
    return check(ExperimentConfig, keys)


@pytest.fixture(scope="module")
def shards() -> Shards:
    return load_rows(_config(), byte_tokenizer(), 512, 261)[1]


def _ready(shards: Shards, client: int, *, exact: bool = True) -> tuple[Ready, dict[str, bytes]]:
    facts = local_facts(shards, client, exact=exact)
    head = Ready(
        run="ab" * 16, process="cd" * 8, rows=facts.rows, digest=facts.digest, means=facts.means
    )
    return Ready.model_validate_json(head.model_dump_json()), parts_of(facts)


def _reported(shards: Shards, row_lengths: str) -> ReportedRows:
    config = _config(row_lengths)
    facts = []
    for client in range(CLIENTS):
        ready, parts = _ready(shards, client, exact=row_lengths == "exact")
        facts.append(checked_facts(ready, parts, client, config))
    return ReportedRows(facts, shards.batch_size, shards.local_steps, shards.seed)


def test_exact_lengths_give_the_same_batches(shards: Shards) -> None:
    reported = _reported(shards, "exact")
    for client in range(CLIENTS):
        assert reported.rows(client) == shards.rows(client)
        assert reported.longest_step(client) == shards.longest_step(client)
        for index in (0, 1, 7):
            assert reported.step_shapes(client, index) == shards.step_shapes(client, index)
            assert reported.cut_shapes(client, index) == shards.cut_shapes(client, index)
    assert (reported.digests() == shards.digests()).all()
    assert reported.train_rows == shards.train_rows


def test_means_are_those_of_many_batches(shards: Shards) -> None:
    reported = _reported(shards, "means")
    for client in range(CLIENTS):
        rounds = [shards.cut_shapes(client, index) for index in range(60)]
        (shape, *others) = reported.cut_shapes(client, 5)
        assert others == [shape] * (shards.local_steps - 1)
        for name in ("width", "real_tokens", "label_tokens"):
            mean = np.mean([getattr(one, name) for steps in rounds for one in steps])
            assert getattr(shape, name) == pytest.approx(mean, rel=0.08), name
        assert reported.longest_step(client) == shards.longest_step(client)


@pytest.mark.parametrize(
    ("lengths", "labels", "problem"),
    [
        ([5, 300], [1, 2], r"client 1: the lengths of its rows is from 5 to 300 tokens"),
        ([1, 9], [1, 2], r"from 1 to 9 tokens"),
        ([5, 9], [0, 2], r"the label tokens of row 0 is 0"),
        ([5, 9], [1, 9], r"the label tokens of row 1 is 9"),
        ([5], [1], r"client 1: lengths is 4 bytes, but it must be 8 for its 2 rows"),
    ],
)
def test_absurd_lengths_are_refused(lengths: list[int], labels: list[int], problem: str) -> None:
    parts = {
        LENGTHS: np.array(lengths, "<i4").tobytes(),
        LABELS: np.array(labels, "<i4").tobytes(),
    }
    ready = Ready(run="ab" * 16, process="cd" * 8, rows=2, digest="0" * 32)
    with pytest.raises(InputError, match=problem):
        checked_facts(ready, parts, 1, _config())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"longest": 999}, "the longest row"),
        ({"width": 90.0}, "the mean width"),
        ({"real_tokens": 900.0}, "the mean tokens"),
        ({"label_tokens": 200.0}, "the mean label tokens"),
    ],
)
def test_contradicting_means_are_refused(change: dict[str, float], problem: str) -> None:
    means = {"longest": 40, "width": 30.0, "real_tokens": 70.0, "label_tokens": 20.0, **change}
    ready = Ready(
        run="ab" * 16,
        process="cd" * 8,
        rows=2,
        digest="0" * 32,
        means=BatchMeans.model_validate(means),
    )
    with pytest.raises(InputError, match=rf"client 0: {problem}"):
        checked_facts(ready, {}, 0, _config("means"))


def test_the_other_kind_of_report_is_refused(shards: Shards) -> None:
    ready, parts = _ready(shards, 0)
    with pytest.raises(InputError, match=r"row lengths is each row's"):
        checked_facts(ready, parts, 0, _config("means"))
    means, _ = _ready(shards, 0, exact=False)
    with pytest.raises(InputError, match=r"row lengths is means"):
        checked_facts(means, {}, 0, _config("exact"))


def test_a_mean_batch_is_charged_in_every_round(shards: Shards) -> None:
    reported = _reported(shards, "means")
    assert reported.step_shapes(0, 0) == reported.step_shapes(0, 9)
    doubled = replace(reported, batch_size=2 * reported.batch_size)
    assert doubled.longest_step(0).batch_size == 2 * reported.batch_size
    assert DeploySection().row_lengths == "exact"
