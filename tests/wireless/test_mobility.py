"""The walk stays in its ring, at its speed, and is the same whatever was asked before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from airtune.wireless.mobility import RandomWaypoint, distance_2d_m


@given(
    seed=st.integers(0, 2**32),
    radius=st.floats(20.0, 1000.0),
    hole=st.floats(0.01, 1.0),
    step=st.floats(0.0, 300.0),
)
def test_walk_stays_in_the_ring_and_never_exceeds_its_speed(
    seed: int, radius: float, hole: float, step: float
) -> None:
    walk = RandomWaypoint(seed, 5, radius, hole * radius, step)
    before = walk.position(0)
    for index in range(1, 12):
        here = walk.position(index)
        moved = np.hypot(*(here - before).T)
        assert np.all(moved <= step * (1 + 1e-9) + 1e-9)
        assert np.all(distance_2d_m(here) <= radius * (1 + 1e-9))
        assert np.all(distance_2d_m(here) >= hole * radius * (1 - 1e-9))
        before = here


def test_walk_covers_its_way_in_small_steps() -> None:
    """Fine steps add up to the whole way: no jump, no rest, also around the mast."""
    fine = RandomWaypoint(1, 20, 100.0, 60.0, 0.01)
    places = np.stack([fine.position(index) for index in range(0, 30000, 10)])
    steps = np.linalg.norm(np.diff(places, axis=0), axis=2)
    assert np.all(steps <= 0.1 + 1e-9)
    # Only at corners is a chord shorter than the way.
    assert np.mean(steps > 0.1 * (1 - 1e-4)) > 0.995
    assert np.min(np.linalg.norm(places, axis=2)) == pytest.approx(60.0, abs=1e-3)


def test_detour_is_no_longer_than_any_other_way_around() -> None:
    """The leg's length equals the shortest path found by brute force on a fine visible polygon."""
    from airtune.wireless.mobility import _leg_length

    radius, start, end = 10.0, np.array([[-30.0, 2.0]]), np.array([[25.0, -3.0]])
    length = _leg_length(start, end, radius)[0]
    angles = np.linspace(0, 2 * np.pi, 3001)
    circle = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def visible(point: np.ndarray) -> np.ndarray:
        return circle @ point >= radius**2 * (1 - 1e-12)

    def to(point: np.ndarray) -> np.ndarray:
        return np.linalg.norm(circle - point, axis=1)

    entry, leave = angles[visible(start[0])], angles[visible(end[0])]
    first, last = to(start[0])[visible(start[0])], to(end[0])[visible(end[0])]
    arc = np.abs(np.angle(np.exp(1j * (entry[:, None] - leave[None, :]))))
    assert length == pytest.approx(np.min(first[:, None] + radius * arc + last[None, :]), rel=1e-5)
    assert length > np.linalg.norm(end - start)


def test_drop_is_uniform_in_area() -> None:
    start = RandomWaypoint(2, 5000, 200.0, 50.0, 0.0).position(0)
    share = (distance_2d_m(start) ** 2 - 50.0**2) / (200.0**2 - 50.0**2)
    assert stats.kstest(share, "uniform").pvalue > 1e-3
    bearing = np.arctan2(start[:, 1], start[:, 0]) / (2 * np.pi) + 0.5
    assert stats.kstest(bearing, "uniform").pvalue > 1e-3


def test_standing_clients_stand() -> None:
    walk = RandomWaypoint(2, 5, 200.0, 50.0, 0.0)
    assert np.array_equal(walk.position(0), walk.position(1000))
    assert np.array_equal(walk.direction(9), np.zeros((5, 2)))


def test_direction_is_where_the_walk_goes() -> None:
    walk, fine = (RandomWaypoint(2, 5, 200.0, 10.0, step) for step in (10.0, 0.5))
    direction = walk.direction(4)
    assert np.linalg.norm(direction, axis=1) == pytest.approx(np.ones(5))
    ahead = fine.position(81) - fine.position(80)
    assert 0.5 * direction == pytest.approx(ahead, abs=1e-6)


def test_place_does_not_depend_on_what_was_asked_before() -> None:
    walk = RandomWaypoint(2, 6, 200.0, 10.0, 37.0)
    forward = [walk.position(index) for index in range(30)]
    for index in (29, 3, 17, 0):
        fresh = RandomWaypoint(2, 6, 200.0, 10.0, 37.0)
        assert np.array_equal(walk.position(index), forward[index])
        assert np.array_equal(fresh.position(index), forward[index])


def test_more_clients_change_none_of_the_first() -> None:
    few, many = (RandomWaypoint(2, count, 200.0, 10.0, 37.0) for count in (3, 40))
    for index in (0, 1, 25):
        assert np.array_equal(many.position(index)[:3], few.position(index))
