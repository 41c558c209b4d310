"""The shadowing map: unit normal at every place, exponential correlation between places."""

import numpy as np
import pytest
from scipy import stats

from airtune.wireless.attenuation import SpatialField

DISTANCE_M = 50.0


@pytest.fixture(scope="module")
def line() -> np.ndarray:
    """The field at five places on a line, over many seeds: [seed, place]."""
    places = np.array([[0.0, 0.0], [5.0, 0.0], [25.0, 0.0], [50.0, 0.0], [0.0, 150.0]])
    return np.stack([SpatialField(seed, "test", DISTANCE_M).at(places) for seed in range(4000)])


def test_every_place_is_standard_normal(line: np.ndarray) -> None:
    for place in range(line.shape[1]):
        assert stats.kstest(line[:, place], "norm").pvalue > 1e-3


def test_correlation_is_gudmundsons(line: np.ndarray) -> None:
    measured = (line[:, :1] * line).mean(axis=0)
    expected = np.exp(-np.array([0.0, 5.0, 25.0, 50.0, 150.0]) / DISTANCE_M)
    # The standard deviation of a correlation over 4000 pairs is at most sqrt(2/4000) = 0.022.
    assert measured == pytest.approx(expected, abs=0.07)


def test_correlation_distance_is_a_scale() -> None:
    places = np.random.default_rng(0).uniform(-300, 300, (40, 2))
    near = SpatialField(3, "test", 20.0).at(places)
    far = SpatialField(3, "test", 200.0).at(10.0 * places)
    assert near == pytest.approx(far, abs=1e-9)


def test_a_place_keeps_its_shadow() -> None:
    field, again = SpatialField(3, "test", 20.0), SpatialField(3, "test", 20.0)
    places = np.random.default_rng(0).uniform(-300, 300, (40, 2))
    first = field.at(places)
    field.at(places + 1.0)
    assert np.array_equal(field.at(places), first)
    assert np.array_equal(again.at(places), first)
    assert not np.allclose(SpatialField(4, "test", 20.0).at(places), first)
    assert not np.allclose(SpatialField(3, "other", 20.0).at(places), first)


def test_more_places_change_none_of_the_first() -> None:
    places = np.random.default_rng(0).uniform(-300, 300, (9000, 2))
    field = SpatialField(3, "test", 20.0)
    assert np.array_equal(field.at(places)[:7], field.at(places[:7]))
