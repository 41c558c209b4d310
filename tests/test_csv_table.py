"""Csv files: names without blanks or byte order marks, nothing lost, nothing guessed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.csv_table import plain_number, read_csv
from airtune.errors import InputError


def test_rows_are_cells_by_name_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfx, y,\n1, "2,\n3"\n\n4\n')
    table = read_csv(path, "field")
    assert table.columns == ("x", "y", "")
    assert table.shown_columns == "x, y"
    assert table.rows == (
        (3, {"x": "1", "y": "2,\n3", "": ""}),
        (5, {"x": "4", "y": "", "": ""}),
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x,y,x\n1,2,3\n", "more than one column 'x'"),
        ("x, x\n1,2\n", "more than one column 'x'"),
        ("x,y\n1,2,3\n", "line 2, with 3 cells"),
        ('x,y\n1,"2\n', "line 2, not csv"),
        ("x\ty\n1\t2\n", "separated by commas"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint) as refusal:
        read_csv(path, "field")
    assert refusal.value.field == "field"
    assert "a.csv" in str(refusal.value)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**18), 10**18))
def test_a_written_number_is_read_to_the_bit(value: float) -> None:
    assert plain_number(repr(value)) == float(value)


@pytest.mark.parametrize(
    "text",
    ["", "nan", "inf", "-Infinity", "1_0", "0x10", "１", "1,5", " 1", "1e", ".", "e3", "+-1"],
)
def test_other_texts_are_no_numbers(text: str) -> None:
    assert plain_number(text) is None
