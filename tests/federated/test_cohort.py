"""Cohorts are uniform, drop-outs are as likely as asked, and both depend on (seed, round) only."""

import numpy as np
import pytest

from airtune.errors import InputError
from airtune.federated.context import CohortSettings, draw_cohort, draw_dropouts
from airtune.federated.records.checkpoint import Clock


def test_everybody_by_default() -> None:
    assert draw_cohort(CohortSettings(), 5, 0, 3).tolist() == [0, 1, 2, 3, 4]


def test_uniform_without_repetition() -> None:
    counts = np.zeros(20)
    for index in range(2000):
        cohort = draw_cohort(CohortSettings(size=5), 20, 1, index)
        assert (np.diff(cohort) > 0).all()
        counts[cohort] += 1
    # Each count is binomial(2000, 1/4): standard deviation 19.4; five of them is certain enough.
    assert abs(counts - 500).max() < 5 * 19.4


def test_dropouts_have_the_probability_asked_and_do_not_depend_on_the_others() -> None:
    settings = CohortSettings(dropout=0.3)
    everyone, some = np.arange(40), np.arange(0, 40, 3)
    total = 0
    for index in range(100):
        silent = draw_dropouts(settings, everyone, 7, index)
        assert draw_dropouts(settings, some, 7, index) == silent & set(some.tolist())
        total += len(silent)
    assert abs(total - 1200) < 5 * np.sqrt(4000 * 0.3 * 0.7)
    assert draw_dropouts(CohortSettings(), everyone, 7, 0) == frozenset()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        (CohortSettings(size=9), r"cohort\.size is 9, but it must be between 1 and the 8 clients"),
        (CohortSettings(size=0), r"cohort\.size is 0"),
        (CohortSettings(dropout=1.0), r"cohort\.dropout is 1\.0"),
    ],
)
def test_refusals(settings: CohortSettings, field: str) -> None:
    with pytest.raises(InputError, match=field):
        settings.check(8)


def test_clock_takes_no_nonsense() -> None:
    assert Clock(1.0, 2.0).charge(3.0, 4.0) == Clock(4.0, 6.0)
    for latency_s, energy_j in ((np.inf, 0.0), (np.nan, 0.0), (-1.0, 0.0), (0.0, np.inf)):
        with pytest.raises(ValueError, match="cannot last"):
            Clock().charge(latency_s, energy_j)
