"""Files of rows by their suffix: what they hold, and how broken ones are refused."""

import gzip
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airtune.data.opening import source_rows
from airtune.data.rows import FILE_KINDS, open_rows
from airtune.data.sources import SourceOptions, load_task_data, load_test_data, refuse_training_rows
from airtune.errors import InputError
from tests.data.files import TEXT_KINDS, write

ROWS = [{"prompt": f"p{n}", "completion": f"c{n}"} for n in range(5)]
# Not half a character; csv alone has no form for NUL.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
TABLES = st.lists(
    st.fixed_dictionaries({"prompt": TEXT, "completion": TEXT}), min_size=1, max_size=7
)


def _rows(path: Path, delimiter: str | None = None) -> list[dict[str, Any]]:
    return [dict(row) for _, row in open_rows(path, "data.train", delimiter)]


@pytest.mark.parametrize("kind", [*TEXT_KINDS, ".ndjson.gz", ".tsv.gz", ".parquet", ".JSON"])
@given(rows=TABLES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_what_is_written_is_read(tmp_path: Path, kind: str, rows: list[dict[str, str]]) -> None:
    write(tmp_path / f"rows{kind.lower()}", rows)
    path = (tmp_path / f"rows{kind.lower()}").rename(tmp_path / f"rows{kind}")
    assert _rows(path) == rows


@given(rows=TABLES, delimiter=st.sampled_from(list(";|:~^ \t,é0")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_delimiter_is_read(tmp_path: Path, rows: list[dict[str, str]], delimiter: str) -> None:
    path = tmp_path / "rows.csv"
    write(path, rows, delimiter)
    assert _rows(path, delimiter) == rows


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(
    rows=st.lists(st.dictionaries(TEXT, JSON, max_size=4), min_size=1),
    indent=st.none() | st.just(2),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_array_has_the_rows_of_its_lines(
    tmp_path: Path, rows: list[dict[str, Any]], indent: int | None
) -> None:
    rows = [{"prompt": "p"}, *rows]
    lines, array = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    array.write_text(" \n" + json.dumps(rows, indent=indent) + "\n ")
    assert _rows(array) == _rows(lines)


@pytest.mark.parametrize("kind", FILE_KINDS)
@given(content=st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_bytes_are_rows_or_one_sentence(tmp_path: Path, content: bytes, kind: str) -> None:
    if kind == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"rows{kind}"
    path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    assert "rows" in _refusal(path) or load_task_data(str(path), str(path)).format_name


def _refusal(path: Path) -> str:
    """The sentence that refuses a file; empty where it is read."""
    try:
        load_task_data(str(path), str(path))
    except InputError as error:
        return str(error)
    return ""


@given(text=st.text(alphabet='[]{}",: \n01truefalsnpomc\\', max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_what_is_no_json_is_no_array(tmp_path: Path, text: str) -> None:
    path, row = tmp_path / "rows.json", '{"prompt": "p", "completion": "c"}'
    path.write_text(f"[{row}{text}")
    try:
        whole = json.loads(f"[{row}{text}")
    except ValueError:
        whole = []
    refusal = _refusal(path)
    assert "rows.json" in refusal or whole
    assert refusal or all(isinstance(entry, dict) for entry in whole)


def test_json_lines_may_be_called_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("\n\n" + "".join(json.dumps(row) + "\n" for row in ROWS))
    assert _rows(path) == ROWS
    assert next(place for place, _ in source_rows(str(path), "data.train")).endswith("line 3")


_ROW = '{"prompt": "p", "completion": "c"}'
REFUSED: list[tuple[str, str, list[str]]] = [
    ("a.json", f"[{_ROW}, 1]", ["a.json, entry 2", "JSON int", "array of JSON objects"]),
    ("a.json", f"[{_ROW}, [{_ROW}]]", ["a.json, entry 2", "JSON list"]),
    ("a.json", f"[\n{_ROW},\n" + '{"prompt": }]', ["entry 2", "not JSON", "line 3, column 12"]),
    ("a.json", f"[{_ROW}", ["a.json, entry 1", "neither a comma", "line 1, column 36"]),
    ("a.json", f"[{_ROW}\n{_ROW}]", ["a.json, entry 1", "neither a comma", "line 2, column 1"]),
    ("a.json", f"[{_ROW},\n]", ["a.json, entry 1", "a comma and no entry", "line 2, column 1"]),
    ("a.json", f"[{_ROW},", ["a.json, entry 2", "not JSON"]),
    ("a.json", f"[{_ROW}]\n[]", ["a.json is an array and more (line 2, column 1)"]),
    ("a.json", "[]", ["empty file"]),
    ("a.json", " ", ["empty file"]),
    ("a.json", "[", ["a.json, entry 1", "not JSON"]),
    ("a.json", f"[{_ROW}, " + '{"prompt": "p", "prompt": "q"}]', ["entry 2", "'prompt' twice"]),
    ("a.json", f"[{_ROW}, " + '{"prompt": NaN}]', ["entry 2", "NaN is no number"]),
    ("a.json", f"[{_ROW}, " + r'{"prompt": "\ud83d", "completion": "c"}]', ["entry 2", "ud83d"]),
    ("a.json", f"[{_ROW}, " + '{"prompt": "p", "completion": null}]', ["entry 2", "'completion'"]),
    ("a.json", f"[{_ROW}, " + "[" * 100_000, ["entry 2"]),
    ("a.json", f"[{_ROW}, " + '{"prompt": ' + "9" * 5000 + "}]", ["2"]),
    ("a.json", '[{"x": null}]', ["entry 1", "row without a text"]),
    ("a.json", '{"data": [\n' + _ROW + "]}", ["a.json, line 1", "not JSON", "object a line"]),
    ("a.tsv", "prompt\tcompletion\np\tc\np\tc\td\n", ["a.tsv, line 3", "3 cells", "hold tabs"]),
    ("a.tsv", 'prompt\tcompletion\n"p" q\tc\n', ["a.tsv, line 2", "not csv", "cells between tabs"]),
    ("a.csv", "prompt;completion\np;c\n", ["'prompt;completion'", "perhaps to ';'"]),
    ("a.tsv", "prompt,completion\np,c\n", ["set data.delimiter, perhaps to ','"]),
    ("a.jsonl.gz", _ROW + "\n{", ["a.jsonl.gz, line 2", "not JSON"]),
    ("a.csv.gz", "prompt,completion\np\n", ["a.csv.gz, line 2", "1 cells"]),
    ("a.json.gz", f"[{_ROW}, 1]", ["a.json.gz, entry 2"]),
    ("a.gz", _ROW, [".jsonl, .json, .csv, .tsv or .parquet"]),
    ("a.parquet.gz", _ROW, [".jsonl, .json, .csv, .tsv or .parquet"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "words"), REFUSED)
def test_broken_files_are_refused_by_line_or_entry(
    tmp_path: Path, name: str, text: str, words: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    with pytest.raises(InputError) as caught:
        load_task_data(str(path), str(path))
    for word in words:
        assert word in str(caught.value)


def test_gz_files_that_are_damaged(tmp_path: Path) -> None:
    whole = gzip.compress("".join(f"{json.dumps(row)}\n" for row in ROWS * 4000).encode())
    spoilt = bytearray(whole)
    spoilt[len(whole) // 2] ^= 255
    path = tmp_path / "a.jsonl.gz"
    for content in (b"plain", whole[: len(whole) // 2], bytes(spoilt), whole[:-6] + b"\x00" * 6):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.jsonl\.gz.*(compress it again|object a line)"):
            load_task_data(str(path), str(path))
    path.write_bytes(gzip.compress(b'{"prompt": "p", "completion": "c"}\n{"prompt": "\xff"}'))
    with pytest.raises(InputError, match=r"a\.jsonl\.gz, line 2 \(not UTF-8\)"):
        load_task_data(str(path), str(path))


def test_a_delimiter_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    options = SourceOptions(delimiter=";")
    lines, table = str(tmp_path / "a.jsonl"), str(tmp_path / "a.csv")
    write(tmp_path / "a.jsonl", ROWS)
    write(tmp_path / "a.csv", ROWS, ";")
    for train, test in ((lines, None), (lines, lines), ("builtin", None)):
        with pytest.raises(InputError, match=r"data\.delimiter is ';'.*left out where neither"):
            load_task_data(train, test, options)
    assert len(load_task_data(lines, table, options).test) == 5
    assert len(load_task_data(table, lines, options).test) == 5
    # A server whose clients hold the training rows does not see what files those are.
    assert len(load_test_data(lines, lines, options, 0).test) == 5


def test_folders_with_every_kind_of_file(tmp_path: Path) -> None:
    write(tmp_path / "train.json", ROWS)
    write(tmp_path / "test.csv.gz", ROWS[:2])
    assert [len(part) for part in _parts(tmp_path)] == [5, 2]
    clients = tmp_path / "clients"
    clients.mkdir()
    for number, kind in enumerate((".jsonl.gz", ".tsv", ".json")):
        write(clients / f"client-{number}{kind}", ROWS)
    assert load_task_data(str(clients)).clients == 3
    write(clients / "client-1.csv", ROWS)
    with pytest.raises(InputError, match=r"client-1\.csv and client-1\.tsv"):
        load_task_data(str(clients))


def _parts(folder: Path) -> tuple[Any, Any]:
    data = load_task_data(str(folder))
    return data.train, data.test


def test_an_array_that_copies_the_training_rows_is_no_test_set(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.jsonl", ROWS), write(tmp_path / "b.json", ROWS)
    with pytest.raises(InputError, match="all 5 rows are training rows"):
        refuse_training_rows(train, test, load_task_data(train, test))


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".jsonl.gz", ".csv.gz", ".tsv", ".parquet"])
def test_files_are_read_as_a_stream(tmp_path: Path, kind: str) -> None:
    """Memory of a pass over a file of some 20 MB."""
    rows = [{"prompt": f"{n:06}" + "x" * 1000, "completion": "c"} for n in range(20_000)]
    path = tmp_path / f"rows{kind}"
    write(path, rows)
    del rows
    reading = iter(open_rows(path, "data.train"))
    next(reading)
    tracemalloc.start()
    count = sum(1 for _ in reading)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 19_999
    assert most < 4_000_000


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"a\.parquet .*pip install 'airtune\[parquet\]'"):
        load_task_data(str(tmp_path / "a.parquet"))


def _table(path: Path, make: Callable[[Any], Any]) -> str:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(make(pyarrow), path)
    return str(path)


def test_parquet_columns_of_other_kinds(tmp_path: Path) -> None:
    def make(arrow: Any) -> Any:
        return arrow.table(
            {
                "prompt": arrow.array(["a", "b", "a"]).dictionary_encode(),
                "completion": arrow.array(["x", "y", "z"], arrow.large_string()),
                "label": arrow.array([1, 2, 1], arrow.int8()),
                "flag": [True, False, None],
                "score": [0.5, float("nan"), None],
                "day": arrow.array([2**62, 0, 1], arrow.timestamp("us")),
                "picture": [b"\xff", b"", None],
            }
        )

    path = _table(tmp_path / "a.parquet", make)
    train = load_task_data(path, path).train
    assert [(e.prompt, e.completion, e.label) for e in train] == [
        ("a", "x", "1"),
        ("b", "y", "2"),
        ("a", "z", "1"),
    ]
    columns = [dict(example.columns) for example in train]
    assert columns[0] == {"label": "1", "flag": "true", "score": "0.5"}
    assert columns[2] == {"label": "1"}


def test_parquet_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"

    def refused(*words: str) -> None:
        with pytest.raises(InputError) as caught:
            load_task_data(str(path), str(path))
        for word in ("a.parquet", *words):
            assert word in str(caught.value)

    names = ["prompt", "completion"]
    _table(
        path, lambda arrow: arrow.table({"prompt": ["p"] * 600, "completion": ["c"] * 599 + [None]})
    )
    refused("row 600", "'completion'")
    _table(path, lambda arrow: arrow.table([["a"], ["b"], ["c"]], names=[*names, "prompt"]))
    refused("'prompt'", "rename")
    broken = b"\xff\xfe"

    def spoilt(arrow: Any) -> Any:
        values = arrow.array([b"ok", broken]).view(arrow.string())
        return arrow.table({"prompt": values, "completion": ["c", "d"]})

    _table(path, spoilt)
    refused("row 2", "'prompt'", "not UTF-8")
    path.write_bytes(b"PAR1 is not all that it takes")
    refused("a readable parquet file")
    rows = {"prompt": [f"{n:0999}" for n in range(99)], "completion": ["c"] * 99}
    _table(path, lambda arrow: arrow.table(rows))
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:4] + b"\xff" * 90 + content[94:]):
        path.write_bytes(damaged)
        refused("a readable parquet file")
