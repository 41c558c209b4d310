"""Files are written whole or not at all."""

import os
from pathlib import Path
from typing import Any

import pytest

from airtune.errors import AirtuneError, InputError
from airtune.files import (
    filled_whole,
    make_folder,
    parse_yaml,
    read_text,
    with_environment,
    write_bytes_atomic,
    write_json_atomic,
)


def test_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_bytes_atomic(path, b"old")
    write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failure_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: Any, step: str
) -> None:
    path = tmp_path / "x"
    write_bytes_atomic(path, b"old")

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr("airtune.files.os.fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(AirtuneError, match=r"x cannot be written .No space left on device"):
        write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_json_has_no_infinity(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json_atomic(tmp_path / "x", {"a": float("inf")})
    assert os.listdir(tmp_path) == []


def test_yaml_mistakes_name_the_line() -> None:
    with pytest.raises(InputError, match="line 2"):
        parse_yaml("a: 1\nb: [2", "file.yaml")
    assert parse_yaml("[1e6, 10.0e6, 1e-05, 0o17]", "x") == [1e6, 1e7, 1e-5, 15]


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_filled_whole_or_not_at_all(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "model"
    if there:
        folder.mkdir()
        (folder / "weights").write_text("old")

    def full_disk() -> None:
        with filled_whole("DIR", folder) as place:
            (place / "weights").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(AirtuneError, match=r"model cannot be written .*No space left.*free some"):
        full_disk()
    assert folder.exists() == there
    assert not there or [path.read_text() for path in folder.iterdir()] == ["old"]
    with filled_whole("DIR", folder) as place:
        (place / "weights").write_text("new")
    assert [path.read_text() for path in folder.iterdir()] == ["new"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfrounds: 3\n")
    assert read_text(path, "field") == "rounds: 3\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: " + "[" * 3000 + "]" * 3000, "nested more than 64 deep in line 1"),
        ("\n".join(" " * level + "a:" for level in range(200)), "more than 64 deep in line 64"),
        ("a: &a [*a]", "nested more than 64 deep in line 1"),
        ("&a {<<: *a}", "nested more than 64 deep in line 1"),
        (
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(
                f"{name}: &{name} [{','.join([f'*{inner}'] * 9)}]\n"
                for inner, name in zip("abcdefg", "bcdefgh", strict=True)
            ),
            "line 6, whose aliases stand for",
        ),
        (
            "a: &a {k: 1}\n"
            + "".join(
                f"{name}: &{name} {{<<: [{','.join([f'*{inner}'] * 9)}]}}\n"
                for inner, name in zip("abcdefg", "bcdefgh", strict=True)
            ),
            "but it must be written with fewer aliases.",
        ),
        ("a: 2024-13-45", "file.yaml is not YAML (month must be in 1..12), but it must be valid"),
        ("a: !!int abc", "is not YAML (invalid literal for int()"),
        ("a: " + "9" * 5000, "is not YAML (Exceeds the limit (4300 digits)"),
        ("a: \x00", "is not YAML (unacceptable character #x0000"),
        ("? {a: 1}\n: b", "is not YAML (found unhashable key, line 1, column 3)"),
    ],
    ids=[
        "brackets",
        "indents",
        "cycle",
        "merged cycle",
        "aliases",
        "merges",
        "date",
        "int",
        "digits",
        "null byte",
        "key",
    ],
)
def test_yaml_without_an_end_or_a_meaning(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "file.yaml")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_modest_aliases_and_merges_are_read() -> None:
    text = "base: &b {x: 1}\none: {<<: *b, y: 2}\ntwo: [*b, *b]\nagain: &b 3\n"
    assert parse_yaml(text, "x") == {
        "base": {"x": 1},
        "one": {"x": 1, "y": 2},
        "two": [{"x": 1}] * 2,
        "again": 3,
    }
    assert parse_yaml("", "x") is None


@pytest.mark.parametrize("text", [r'a: "\ud83d"', r'"\udc00x": 1', r'a: [{b: ["\ud83d"]}]'])
def test_half_a_character_in_yaml(text: str) -> None:
    with pytest.raises(InputError, match=r"file\.yaml is a text with '\\ud"):
        parse_yaml(text, "file.yaml")
    assert parse_yaml(r'"\U0001F600"', "x") == "😀"


def test_bytes_of_a_variable_that_are_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "\udcff")
    with pytest.raises(InputError, match=r"data\.train \(from PLACE\) is a text with '\\udcff'"):
        with_environment({"data": {"train": "${PLACE}/rows.jsonl"}})


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--out is a text with '\\udcff'"):
        make_folder("--out", tmp_path / "r\udcff")
    assert not list(tmp_path.iterdir())
