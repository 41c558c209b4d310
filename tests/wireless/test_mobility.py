"""The walk stays in its ring, at its speed, and is the same whatever was asked before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

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
        seen: np.ndarray = circle @ point >= radius**2 * (1 - 1e-12)
        return seen

    def to(point: np.ndarray) -> np.ndarray:
        distance: np.ndarray = np.linalg.norm(circle - point, axis=1)
        return distance

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


def _disc_law(share_of_radius: np.ndarray) -> np.ndarray:
    """Distribution function of the distance of a stationary random waypoint walk in a unit disc.

    E. Hyytia, P. Lassila, J. Virtamo, "Spatial node distribution of the random waypoint mobility
    model with applications", IEEE Trans. Mobile Computing 5(6), 2006: the density per area is
    `45 (1 - r^2) / (64 pi) * integral_0^pi sqrt(1 - r^2 cos^2 phi) dphi`.
    """
    r = np.linspace(0.0, 1.0, 4001)
    density = 45.0 * (1.0 - r**2) / (64.0 * np.pi) * 2.0 * special.ellipe(r**2)
    below = integrate.cumulative_trapezoid(2.0 * np.pi * r * density, r, initial=0.0)
    assert below[-1] == pytest.approx(1.0, abs=1e-6)
    shares: np.ndarray = np.interp(share_of_radius, r, below)
    return shares


@pytest.mark.parametrize("index", [0, 7, 400])
def test_distances_follow_the_published_stationary_law(index: int) -> None:
    walk = RandomWaypoint(4, 20_000, 200.0, 1e-3, 8.3)
    share = distance_2d_m(walk.position(index)) / 200.0
    assert stats.kstest(share, _disc_law).pvalue > 1e-3


def test_every_round_has_the_law_of_round_0_around_a_wide_mast() -> None:
    """With a ring the law has no closed form: round 3000 lies 40 legs later, far from the start."""
    walk = RandomWaypoint(5, 10_000, 100.0, 40.0, 1.0)
    start, late = (distance_2d_m(walk.position(index)) for index in (0, 3000))
    assert stats.ks_2samp(start, late).pvalue > 1e-3
    # A uniform start on fresh legs, in contrast, is far from that law.
    uniform = distance_2d_m(RandomWaypoint(5, 10_000, 100.0, 40.0, 0.0).position(0))
    assert stats.ks_2samp(uniform, late).pvalue < 1e-9


def test_nobody_drifts_inward_together() -> None:
    walk = RandomWaypoint(6, 20_000, 200.0, 10.0, 8.3)
    for index in (0, 3, 20):
        here, ahead = (distance_2d_m(walk.position(t)) for t in (index, index + 1))
        drift = ahead - here
        assert abs(drift.mean()) < 4 * drift.std() / np.sqrt(len(drift))


def test_first_legs_are_drawn_by_their_length() -> None:
    """The mean of the length under the law l p(l) is E[l^2] / E[l], here by plain Monte Carlo."""
    clients, radius, hole = 20_000, 100.0, 30.0
    walk = RandomWaypoint(7, clients, radius, hole, 1.0)
    first = walk._arrival[1] - walk._arrival[0]
    draws = np.random.default_rng(1).random((4, 100_000))
    distance = np.sqrt(hole**2 + (radius**2 - hole**2) * draws[:2])
    points = distance * np.exp(2j * np.pi * draws[2:])
    # A straight line, or two tangents and an arc where it passes the mast too close.
    gap = np.abs(np.angle(points[1] / points[0])) - np.arccos(hole / distance).sum(axis=0)
    around = np.sqrt(distance**2 - hole**2).sum(axis=0) + hole * gap
    length = np.where(gap > 0, around, np.abs(points[1] - points[0]))
    biased = (length**2).mean() / length.mean()
    assert first.mean() == pytest.approx(biased, rel=0.01)
    assert biased > 1.1 * length.mean()


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
