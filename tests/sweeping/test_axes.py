"""Swept keys as a user types them, and points from a file."""

from pathlib import Path
from typing import Any

import pytest

from airtune.errors import InputError
from airtune.sweeping.axes import Axes, folder_names, read_axes, read_axis, short_keys, show


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("cell.bandwidth_hz=5e6,10e6", "cell.bandwidth_hz", [5e6, 10e6]),
        ("method=one,two", "method", ["one", "two"]),
        ("training.keep_optimizer=true,false", "training.keep_optimizer", [True, False]),
        ("deadline_s=null,10", "deadline_s", [None, 10]),
        ("clients.devices=[a, b],[c]", "clients.devices", [["a", "b"], ["c"]]),
        (
            "codec={use: top-k, share: 0.1},dense",
            "codec",
            [{"use": "top-k", "share": 0.1}, "dense"],
        ),
        ("tuner=my.parts:Tuner,'a,b'", "tuner", ["my.parts:Tuner", "a,b"]),
        (
            "data.train=${FOLDER}/a.jsonl,it's.jsonl",
            "data.train",
            ["${FOLDER}/a.jsonl", "it's.jsonl"],
        ),
        (" seed = 3 ", "seed", [3]),
    ],
)
def test_values_are_those_of_set(text: str, key: str, values: list[Any]) -> None:
    assert read_axis(text, "KEY=A,B,C") == (key, values)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "KEY=A,B,C is missing"),
        (["rank"], "KEY=A,B,C is rank"),
        (["=1,2"], "KEY=A,B,C is =1,2"),
        (["a..b=1,2"], "KEY=A,B,C is a..b=1,2"),
        (["a=1,,2"], "no value: null"),
        (["a=1,"], "no value: null"),
        (["a=[1,2"], "is not YAML"),
        (["a=1,2", "a=3"], "a is given twice"),
        (["a=1e6,1000000"], "it would be the same point twice"),
        (["a=" + ",".join(map(str, range(101))), "b=" + ",".join(map(str, range(100)))], "10,100"),
    ],
)
def test_refusals(texts: list[str], words: str) -> None:
    with pytest.raises(InputError, match="(?s)" + words.replace("=", ".").replace("[", ".")):
        read_axes(texts)


def test_true_is_not_one() -> None:
    assert len(read_axes(["a=true,1,'1'"]).points) == 3


def test_the_last_key_changes_first() -> None:
    points = read_axes(["a.x=1,2", "b.y=u,v"]).points
    assert [dict(point.values) for point in points] == [
        {"a.x": 1, "b.y": "u"},
        {"a.x": 1, "b.y": "v"},
        {"a.x": 2, "b.y": "u"},
        {"a.x": 2, "b.y": "v"},
    ]
    assert [point.number for point in points] == [1, 2, 3, 4]


def test_a_csv_list_leaves_empty_cells_alone(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text('adapter.rank,codec,note\n4,"{use: top-k, share: 0.1}",x\n8,,y\n')
    axes = read_axes(["seed=0,1"], path)
    assert axes.keys == ["adapter.rank", "codec", "note", "seed"]
    first, _, third, _ = axes.points
    assert first.values == {
        "adapter.rank": 4,
        "codec": {"use": "top-k", "share": 0.1},
        "note": "x",
        "seed": 0,
    }
    assert third.values == {"adapter.rank": 8, "note": "y", "seed": 0}


def test_a_yaml_list_may_nest(tmp_path: Path) -> None:
    path = tmp_path / "points.yaml"
    path.write_text(
        "- {cell: {bandwidth_hz: 5e6}, codec: {use: dense}}\n- {cell.bandwidth_hz: 1e7}\n"
    )
    assert read_axes([], path).rows == [
        {"cell.bandwidth_hz": 5e6, "codec": {"use": "dense"}},
        {"cell.bandwidth_hz": 1e7},
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.yaml", "a: 1", "a list of mappings"),
        ("p.yaml", "[1, 2]", "a list of mappings"),
        ("p.yaml", "[]", "without a point"),
        ("p.csv", "a,b\n", "without a point"),
        ("p.csv", "a,\n1,2\n", "without a name"),
        ("p.yaml", "[{a: 1}, {a: 1.0}]", "the same point twice"),
        ("p.yaml", "[{a: 1}, {b: 1}]", "either there or in the --list"),
    ],
)
def test_refused_lists(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_axes(["b=1,2"], tmp_path / name)


def test_names_of_folders_are_distinct_and_short() -> None:
    axes = Axes({"data.train": ["/a b/" + "x" * 200, "/a b/" + "x" * 201], "p": [0.1]})
    first, second = folder_names(axes.points)
    assert first.startswith("1-data.train=-a-b-xxx")
    assert first[1:] == second[1:]
    assert len(first) < 90


def test_keys_lose_their_section_where_that_is_clear() -> None:
    assert short_keys(["adapter.rank", "method"]) == ["rank", "method"]
    assert short_keys(["a.rank", "b.rank", "c.x"]) == ["a.rank", "b.rank", "x"]


def test_numbers_are_shown_so_that_they_are_distinct() -> None:
    shown = [show(value) for value in (5e6, 0.1, 1234567.0, 1e-5, 12, None, True, "a", [1, 2])]
    assert shown == ["5e6", "0.1", "1234567.0", "1e-05", "12", "null", "true", "a", "[1, 2]"]
