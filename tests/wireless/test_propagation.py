"""Attenuation by place: the right formula, the right state, the right maps."""

import math

import numpy as np
import pytest

from airtune.wireless.attenuation import SpatialField, free_space_db, log_distance_db
from airtune.wireless.cell import CellSettings
from airtune.wireless.propagation import DistanceAttenuation, ScenarioAttenuation
from airtune.wireless.tr38901 import SHADOWING_DISTANCE_M, Scenario, SightHypotheses

PLACES = np.array([[30.0, 40.0], [-200.0, 0.0], [0.0, -77.0]])
DISTANCE = np.array([50.0, 200.0, 77.0])


def test_free_space_uses_the_cells_carrier() -> None:
    cell = CellSettings(path_loss="free_space", carrier_hz=5.9e9)
    loss = DistanceAttenuation(cell, 1).at(PLACES)
    assert np.array_equal(loss.path_loss_db, free_space_db(DISTANCE, 5.9e9))
    assert np.all(loss.shadowing_db == 0)


def test_log_distance_uses_the_cells_constants() -> None:
    usual = DistanceAttenuation(CellSettings(path_loss="log_distance"), 1).at(PLACES)
    assert np.array_equal(usual.path_loss_db, log_distance_db(DISTANCE))
    other = CellSettings(
        path_loss="log_distance", log_distance_intercept_db=140.7, log_distance_slope_db=36.7
    )
    loss = DistanceAttenuation(other, 1).at(PLACES)
    assert loss.path_loss_db == pytest.approx(140.7 + 36.7 * np.log10(DISTANCE / 1000))


@pytest.mark.parametrize(("given", "distance"), [(None, 50.0), (20.0, 20.0)])
def test_log_distance_shadowing_has_its_spread_and_its_distance(
    given: float | None, distance: float
) -> None:
    cell = CellSettings(path_loss="log_distance", shadowing_distance_m=given)
    pair = np.array([[0.0, 100.0], [15.0, 100.0]])
    draws = np.stack(
        [DistanceAttenuation(cell, seed).at(pair).shadowing_db for seed in range(2000)]
    )
    assert draws.std(axis=0) == pytest.approx([8.0, 8.0], rel=0.05)
    correlation = np.asarray(np.corrcoef(draws.T))[0, 1]
    assert correlation == pytest.approx(math.exp(-15.0 / distance), abs=0.05)


class Remembering(Scenario):
    """Sionna's answer depends on the places alone: ask it once and try many seeds."""

    def __init__(self) -> None:
        super().__init__("umi", 3.5e9, 10.0, 1.5)
        self._known: dict[bytes, SightHypotheses] = {}

    def large_scale(self, position_m: np.ndarray) -> SightHypotheses:
        key = position_m.tobytes()
        if key not in self._known:
            self._known[key] = super().large_scale(position_m)
        return self._known[key]


@pytest.fixture(scope="module")
def umi() -> Scenario:
    return Remembering()


def _ring(clients: int, radius_m: float) -> np.ndarray:
    angle = 2 * np.pi * np.arange(clients) / clients
    return radius_m * np.stack([np.cos(angle), np.sin(angle)], axis=1)


@pytest.mark.parametrize("radius", [15.0, 60.0, 200.0])
def test_sight_is_as_frequent_as_its_probability(umi: Scenario, radius: float) -> None:
    expected = 1.0 if radius <= 18 else 18 / radius + math.exp(-radius / 36) * (1 - 18 / radius)
    share = []
    for seed in range(150):
        sight = ScenarioAttenuation(umi, CellSettings(), seed).at(_ring(4, radius)).line_of_sight
        assert sight is not None
        share.append(sight.mean())
    assert np.mean(share) == pytest.approx(expected, abs=0.07)


def test_every_client_has_the_path_loss_and_the_spread_of_its_state(umi: Scenario) -> None:
    places = _ring(4000, 2000.0) * np.linspace(0.02, 1.0, 4000)[:, None]
    both = umi.large_scale(places)
    loss = ScenarioAttenuation(umi, CellSettings(radius_m=5000), 3).at(places)
    sight = loss.line_of_sight
    assert sight is not None
    assert 0.02 < sight.mean() < 0.5
    assert np.array_equal(loss.path_loss_db[sight], both.path_loss_db[1][sight])
    assert np.array_equal(loss.path_loss_db[~sight], both.path_loss_db[0][~sight])
    blocked, sighted = (
        SpatialField(3, f"shadowing {state} sight", distance).at(places)
        for state, distance in (("without", 13.0), ("with", 10.0))
    )
    expected = np.where(sight, 4.0 * sighted, 7.82 * blocked)
    assert loss.shadowing_db == pytest.approx(expected, abs=1e-9)
    assert loss.shadowing_db[~sight].std() == pytest.approx(7.82, rel=0.1)
    assert loss.shadowing_db[sight].std() == pytest.approx(4.0, rel=0.25)


@pytest.mark.parametrize("given", [None, 40.0])
def test_shadowing_of_each_state_has_its_own_map_and_distance(
    umi: Scenario, given: float | None
) -> None:
    cell = CellSettings(shadowing_distance_m=given)
    pair = np.array([[12.0, 0.0], [17.0, 0.0]]), np.array([[900.0, 0.0], [905.0, 0.0]])
    for state, places in ((1, pair[0]), (0, pair[1])):
        draws = []
        for seed in range(250):
            loss = ScenarioAttenuation(umi, cell, seed).at(places)
            assert loss.line_of_sight is not None
            if np.all(loss.line_of_sight == bool(state)):
                draws.append(loss.shadowing_db)
        distance = given or SHADOWING_DISTANCE_M["umi"][state]
        correlation = np.asarray(np.corrcoef(np.array(draws).T))[0, 1]
        assert correlation == pytest.approx(math.exp(-5.0 / distance), abs=0.1)


def test_states_at_one_place_have_independent_shadows(umi: Scenario) -> None:
    """TR 38.901 clause 7.4.4: links in different states are not correlated."""
    maps = [ScenarioAttenuation(umi, CellSettings(), seed)._maps for seed in range(1000)]
    values = np.array([[field.at(PLACES[:1])[0] for field in pair] for pair in maps])
    assert abs(np.corrcoef(values.T)[0, 1]) < 0.12
