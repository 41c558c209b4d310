"""Costs to several shares of the first arm's descent, and the intervals of ratios to it."""

from math import exp, log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from airtune.comparison.measure import MEASURES
from airtune.comparison.targets import interval, measure_targets
from airtune.jobs.job import RunResult
from airtune.report.targets import target_tables
from tests.comparison.test_measure import run


def targets(results: list[RunResult], shares: list[float]) -> list[dict[str, Any]]:
    found = measure_targets(results, shares)
    assert found is not None
    return found


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_interval_is_that_of_a_t_test_on_logarithms(count: int) -> None:
    ratios = np.random.default_rng(count).uniform(0.2, 3.0, count)
    expected = stats.ttest_1samp(np.log(ratios), 0.0).confidence_interval(0.95)
    assert interval(list(ratios)) == pytest.approx(
        (stats.gmean(ratios), exp(expected.low), exp(expected.high)), rel=1e-9
    )


def test_an_interval_of_a_ratio_and_of_its_reciprocal_agree() -> None:
    mean, low, high = interval([0.25, 0.5, 0.4])
    other = interval([4.0, 2.0, 2.5])
    assert low is not None
    assert high is not None
    assert other == pytest.approx((1 / mean, 1 / high, 1 / low))


def test_one_seed_has_no_interval() -> None:
    mean, *ends = interval([0.5])
    assert mean == pytest.approx(0.5)
    assert ends == [None, None]


def test_costs_to_each_share() -> None:
    # From 4 before training to 1: half of it is 2.5, all of it 1.
    results = [
        run("first", 0, [2.4, 1.0], 10.0),
        run("first", 1, [3.0, 2.5, 1.0], 10.0),
        run("quick", 0, [2.0, 0.9], 2.0),
        run("quick", 1, [2.0, 0.9], 4.0),
        run("stuck", 0, [2.5]),
        run("stuck", 1, [2.5]),
        RunResult("broken", 0, Path(), failure="no signal."),
    ]
    half, whole = targets(results, [1.0, 0.5])
    assert (half["share"], half["target_loss"]) == (0.5, pytest.approx(2.5))
    assert (whole["share"], whole["target_loss"]) == (1.0, 1.0)
    assert half["arms"][0]["to_target"]["virtual_time_s"]["mean"] == 15.0
    quick = half["arms"][1]["ratio"]["virtual_time_s"]
    # 2 s of 10 s and 4 s of 20 s: x0.2 on both seeds.
    assert quick == {name: pytest.approx(0.2) for name in ("mean", "low", "high")}
    ratio = whole["arms"][1]["ratio"]["virtual_time_s"]
    logs = [log(4 / 20), log(8 / 30)]
    width = stats.t.ppf(0.975, 1) * abs(logs[0] - logs[1]) / sqrt(2) / sqrt(2)
    assert log(ratio["high"] / ratio["mean"]) == pytest.approx(width)
    assert whole["arms"][2]["to_target"] is None
    assert set(whole["arms"][2]["ratio"].values()) == {None}
    assert set(half["arms"][0]["ratio"]) == set(MEASURES)


def test_tables_of_several_targets() -> None:
    results = [
        run("first", 0, [2.4, 1.0], 10.0),
        run("first", 1, [2.4, 1.0], 10.0),
        run("half", 0, [2.4, 1.0], 5.0),
        run("half", 1, [2.4, 1.5], 5.0),
        run("single", 0, [2.4, 1.2], 30.0),
        RunResult("broken", 0, Path(), failure="no signal."),
    ]
    time, sent, energy = target_tables({"targets": targets(results, [0.5, 1.0])})
    assert time == (
        "virtual_time_s",
        "Time to a share of the descent of first",
        ["arm", "50 %", "100 %"],
        [
            ["first", "10 s", "20 s"],
            ["half", "×0.50 [0.50, 0.50]", "×0.50, 1 of 2 seeds"],
            ["single", "×3.00", "not reached"],
            ["broken", "failed", "failed"],
        ],
    )
    assert sent.rows[0] == ["first", "8 MB", "16 MB"]
    assert energy.title == "Energy of the clients to a share of the descent of first"
    assert energy.rows[1][1] == "×1.00 [1.00, 1.00]"


def test_one_target_has_no_tables() -> None:
    assert target_tables({"arms": []}) == []
    assert measure_targets([RunResult("a", 0, Path(), failure="x.")], [0.5, 1.0]) is None
