"""Rows in memory: the same as those of a file, under the name of their digest."""

import json
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airtune import Experiment, Run, keep_rows
from airtune.data import memory
from airtune.data.memory import kept_rows, with_rows
from airtune.data.opening import source_rows
from airtune.data.sources import load_task_data
from airtune.errors import InputError
from airtune.files import read_yaml_mapping
from tests.data.files import write
from tests.data.test_file_kinds import JSON, TEXT
from tests.data.test_row_formats import ALPACA, SHAREGPT, TRL
from tests.test_python_api import QUICK

ROWS = [{"prompt": f"p{n}", "completion": f"c{n}", "label": n % 2} for n in range(40)]


class Split:
    """What airtune uses of a split of the `datasets` library."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    @property
    def column_names(self) -> list[str]:
        return list(self._rows[0])

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_kept", {})


def test_the_same_rows_have_the_same_name_whatever_holds_them() -> None:
    name = keep_rows(ROWS)
    assert name.startswith("in-memory:")
    for held in (pd.DataFrame(ROWS), Split(ROWS), tuple(ROWS), [dict(r) for r in ROWS], iter(ROWS)):
        assert keep_rows(held) == name
    assert keep_rows(ROWS[::-1]) != name
    assert keep_rows([{**ROWS[0], "label": True}]) != keep_rows([{**ROWS[0], "label": "true"}])


@given(rows=st.lists(st.dictionaries(TEXT, JSON, max_size=4), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_those_of_a_file(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    rows = [{"prompt": "p"}, *rows]
    path = write(tmp_path / "rows.jsonl", rows)
    kept = [row for _, row in source_rows(keep_rows(rows), "data.train")]
    assert kept == [row for _, row in source_rows(path, "data.train")]


@pytest.mark.parametrize("rows", [ALPACA, TRL, SHAREGPT, ROWS])
def test_formats_and_held_out_rows_are_those_of_a_file(tmp_path: Path, rows: list[Any]) -> None:
    path = write(tmp_path / "rows.jsonl", rows)
    ours, theirs = load_task_data(keep_rows(rows)), load_task_data(path)
    assert (ours.train, ours.test, ours.format_name) == (
        theirs.train,
        theirs.test,
        theirs.format_name,
    )


def test_arrays_are_values() -> None:
    """As pandas has lists of a parquet file."""
    frame = pd.DataFrame({"messages": [0, 0], "label": np.array([1, 2], dtype=np.int64)})
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    frame["messages"] = [np.array(turns, dtype=object)] * 2
    train = [row for _, row in source_rows(keep_rows(frame), "data.train")]
    assert [row["label"] for row in train] == ["1", "2"]
    assert json.loads(train[0]["messages"]) == turns
    loose = [{"prompt": np.str_("p"), "completion": np.float32(0.5), "input": (1, 2)}]
    (row,) = [dict(row) for _, row in source_rows(keep_rows(loose), "data.train")]
    assert row == {"prompt": "p", "completion": "0.5", "input": "[1, 2]"}
    missing = pd.DataFrame({"prompt": ["a", "b"], "completion": ["c", None], "n": [1.0, np.nan]})
    with pytest.raises(InputError, match=r"in-memory:\w+, row 1 is without a text in column 'comp"):
        load_task_data(keep_rows(missing), keep_rows(ROWS))


def test_rows_are_a_copy() -> None:
    rows = [dict(row) for row in ROWS]
    name = keep_rows(rows)
    rows[0]["prompt"] = "another"
    assert next(iter(kept_rows(name, "data.train")))[1]["prompt"] == "p0"
    assert keep_rows(rows) != name


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no rows"),
        ([{}], "row 0 is a row without a text"),
        ([{"x": None}], "row 0 is a row without a text"),
        ({"train": ROWS}, "of several splits, name one"),
        ([*ROWS, "text"], "row 40 is str text"),
        ([{1: "x"}], "row 0 is dict"),
        (object(), "a list of mappings"),
        ([{"prompt": "\ud83d"}], "row 0, column 'prompt'"),
    ],
)
def test_what_is_no_rows(rows: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        Experiment(data={"test": rows})
    assert "data.test" in str(caught.value)
    assert words in str(caught.value)


def test_another_process_is_given_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    name = keep_rows(ROWS)
    make = partial(load_task_data, name)
    assert with_rows(make, ["builtin", 3, None]) is make
    carried = pickle.dumps(with_rows(make, [name, 3]))
    before = make()
    monkeypatch.setattr(memory, "_kept", {})
    assert pickle.loads(carried)() == before


def test_a_run_names_the_digest_and_resumes_with_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, data = pd.DataFrame(ROWS), QUICK["data"]
    keys = {**QUICK, "rounds": 2, "data": {**data, "train": rows, "format": "table"}}
    path = write(tmp_path / "rows.jsonl", ROWS)
    Experiment(**{**keys, "data": {**keys["data"], "train": path}}).run(tmp_path / "file")
    run = Experiment(**keys).run(tmp_path / "run")
    records = (tmp_path / "run/rounds.jsonl").read_bytes()
    assert records == (tmp_path / "file/rounds.jsonl").read_bytes()
    name = read_yaml_mapping(tmp_path / "run/experiment.yaml", "run")["data"]["train"]
    assert name == run.config.data.train == keep_rows(rows)
    monkeypatch.setattr(memory, "_kept", {})
    refusal = rf"data\.train is {name} .*but it must be given again: call airtune\.keep_rows"
    for again in (
        lambda: Experiment.resume(tmp_path / "run", 1),
        lambda: Run.open(tmp_path / "run").evaluate(),
    ):
        with pytest.raises(InputError, match=refusal):
            again()
    keep_rows(ROWS[::-1])
    with pytest.raises(InputError, match=refusal):
        Experiment.resume(tmp_path / "run", 1)
    keep_rows(ROWS)
    assert len(Experiment.resume(tmp_path / "run", 1).records) == 3


@pytest.mark.slow
def test_workers_have_the_rows(tmp_path: Path) -> None:
    data = {**QUICK["data"], "train": ROWS, "test": [{"prompt": "new", "completion": "x"}]}
    keys = {**QUICK, "data": data}
    Experiment(**keys).run(tmp_path / "here")
    Experiment(**{**keys, "engine": "workers", "workers": 2}).run(tmp_path / "there")
    here, there = (tmp_path / name / "rounds.jsonl" for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()
