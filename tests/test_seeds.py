"""Draws depend on (seed, purpose, round, client) and on nothing else."""

import itertools

import numpy as np

from airtune.seeds import NO_CLIENT, generator, integer_seed


def test_every_argument_counts_and_none_is_confused_with_another() -> None:
    places = itertools.product((0, 1), ("fading", "cohort"), (0, 1, 2), (NO_CLIENT, 0, 1, 2))
    firsts = [generator(*place).random() for place in places]
    assert len(set(firsts)) == len(firsts) == 48


def test_the_same_place_gives_the_same_draws() -> None:
    one, two = generator(7, "fading", 3, 5).random(4), generator(7, "fading", 3, 5).random(4)
    np.testing.assert_array_equal(one, two)
    assert integer_seed(7, "x", 1, 2) == integer_seed(7, "x", 1, 2) != integer_seed(7, "x", 1, 3)
    assert 0 <= integer_seed(2**40, "x") < 2**63


def test_adding_clients_changes_none_before() -> None:
    few, many = (generator(0, "fading", 1).standard_normal(n) for n in (5, 9))
    np.testing.assert_array_equal(few, many[:5])


def test_streams_are_uncorrelated() -> None:
    draws = np.stack([generator(0, "fading", index).standard_normal(4000) for index in range(8)])
    correlation = np.corrcoef(draws) - np.eye(8)
    assert abs(correlation).max() < 5 / np.sqrt(4000)


def test_the_draws_of_today_are_the_draws_of_tomorrow() -> None:
    # A change of this number would silently change every published experiment.
    assert generator(0, "fading", 0, 0).integers(2**32) == 1023984323
