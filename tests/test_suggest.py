"""Suggestions for mistyped names, and the one sentence in which they stand."""

import doctest

import pytest

from airtune import suggest as module
from airtune.errors import InputError
from airtune.suggest import closest, suggest

KNOWN = ("bandwidth_hz", "carrier_hz", "galaxy-s25")


def test_examples_of_the_docstrings() -> None:
    assert doctest.testmod(module) == (0, 2)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("bandwith_hz", "bandwidth_hz"),
        ("CARRIER-HZ", "carrier_hz"),
        ("galaxy_s26", "galaxy-s25"),
        ("fading", None),
        (25, None),
    ],
)
def test_the_closest_name(word: object, expected: str | None) -> None:
    assert closest(word, KNOWN) == expected


def test_a_remedy_is_a_question_and_ends_the_sentence() -> None:
    error = InputError("cell.key", "carier_hz", "known", suggest("carier_hz", KNOWN))
    assert str(error).endswith("must be known: did you mean 'carrier_hz'?")
    assert suggest("fading", KNOWN, "leave it out") == "leave it out"
