"""Scoring: what counts as right, and what does not."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.data.tasks import (
    FINAL_NUMBER,
    LABEL_ACCURACY,
    SLOTS_REALISED,
    Example,
    Slot,
    final_number,
    mean_score,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18 - 3 = 15\n#### 15", "15"),
        ("####15", "15"),
        ("#### 1,250", "1250"),
        ("#### -7", "-7"),
        ("#### −7", "-7"),
        ("#### +7", "7"),
        ("#### $1,250.50", "1250.50"),
        ("#### -$3", "-3"),
        ("#### .5", "0.5"),
        ("#### 12.", "12"),
        ("#### 12 apples", "12"),
        ("#### 1\nand then #### 2", "1"),
        ("#### 1/2", "0.5"),
        ("#### -$3 / 4", "-0.75"),
        ("#### 1e3", "1000"),
        ("#### 2.5E-1", "0.25"),
        ("#### 50%", "50"),
        ("#### 5 €.", "5"),
        ("#### 1,234,567.5 people", "1234567.5"),
        ("#### 72.\n\n5 is next", "72"),
        ("#### 5km", "5"),
        ("#### 5, since 2 + 3 = 5", "5"),
    ],
)
def test_final_number_is_read(text: str, number: str) -> None:
    assert final_number(text) == Decimal(number)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the answer is 12",
        "#### none",
        "### 12",
        "####",
        "#### ,",
        "#### none #### 5",
        "#### 10:30",
        "#### 1/0",
        "#### 1,00",
        "#### 12,34,567",
        "#### 1 000",
        "#### 1 1/2",
        "#### 3-4",
        "#### 5 - 3",
        "#### 0x10",
        "#### 1_000",
        "#### 1.5.2",
        "#### 1/2/3",
        "#### ½",
        "#### 1½",
        "#### 5²",
        "#### 5 x 3",
        "#### NaN",
        "#### inf",
        "#### 5,6",
    ],
)
def test_no_final_number(text: str) -> None:
    assert final_number(text) is None


@given(st.integers(-(10**9), 10**9))
def test_final_number_with_thousands_commas(value: int) -> None:
    assert final_number(f"so\n#### {value:,}") == value


@pytest.mark.parametrize(
    ("generated", "mark"),
    [("#### 72", 1), ("#### 72.0", 1), ("x #### 72 y", 1), ("#### 73", 0), ("72", 0), ("", 0)],
)
def test_exact_match_compares_numbers(generated: str, mark: float) -> None:
    example = Example("q", "36 + 36 = 72\n#### 72", "1")
    assert FINAL_NUMBER.of(example, generated) == mark


def test_nothing_matches_an_answer_without_a_number() -> None:
    assert FINAL_NUMBER.of(Example("q", "no number", ""), "neither here") == 0


@pytest.mark.parametrize(
    ("generated", "mark"),
    [
        ("Health", 1),
        (" health.\nand more text", 1),
        ("Health & Sports", 0),
        ("The class is Health", 0),
        ("", 0),
    ],
)
def test_label_accuracy_reads_the_first_line(generated: str, mark: float) -> None:
    assert LABEL_ACCURACY.of(Example("q", "Health", "Health"), generated) == mark


SLOTS = (
    Slot("name", "The Old Fox", ("The Old Fox",)),
    Slot("price", "low", ("cheap", "low price")),
    Slot("families", "no", ("not family friendly",)),
    Slot("rating", "5", ("5 out of 5",)),
)


@pytest.mark.parametrize(
    ("generated", "share"),
    [
        ("The Old Fox is cheap, not family friendly and rated 5 out of 5.", 1.0),
        ("the  old\nfox has low prices .", 0.5),
        ("A fox.", 0.0),
    ],
)
def test_share_of_slots(generated: str, share: float) -> None:
    assert SLOTS_REALISED.of(Example("p", "c", "", SLOTS), generated) == share


def test_a_refused_wording_outweighs_an_accepted_one() -> None:
    slot = Slot("families", "yes", ("family friendly",), ("not family friendly",))
    example = Example("p", "c", "", (slot,))
    assert SLOTS_REALISED.of(example, "It is family friendly") == 1
    assert SLOTS_REALISED.of(example, "It is not family friendly") == 0


def test_mean_score_over_examples() -> None:
    examples = [Example("q", "#### 1", ""), Example("q", "#### 2", "")]
    assert mean_score(FINAL_NUMBER, examples, ["#### 1", "#### 1"]) == 0.5
    assert mean_score(FINAL_NUMBER, [], []) == 0
    with pytest.raises(ValueError, match="zip"):
        mean_score(FINAL_NUMBER, examples, ["#### 1"])
