"""Where a drawn channel's gain comes from: path loss and shadowing by place, fading by round."""

from collections.abc import Callable, Hashable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from airtune.quantities import FloatArray
from airtune.seeds import integer_seed
from airtune.wireless import tr38901
from airtune.wireless.attenuation import Clients, SpatialField, free_space_db, log_distance_db
from airtune.wireless.cell import CellSettings
from airtune.wireless.mobility import RandomWaypoint, distance_2d_m

_SHADOWING_DB = {"log_distance": 8.0, "free_space": 0.0}
_SHADOWING_DISTANCE_M = 50.0


@dataclass(frozen=True)
class Attenuation:
    """What the place of a client does to its link; all [client].

    Attributes:
        path_loss_db: mean attenuation, dB.
        shadowing_db: deviation from it, dB; positive attenuates more.
        line_of_sight: state of TR 38.901; None where the model has none.
    """

    path_loss_db: FloatArray
    shadowing_db: FloatArray
    line_of_sight: NDArray[np.bool_] | None


class LargeScale(Protocol):
    """Attenuation as a function of the place."""

    def at(self, position_m: FloatArray) -> Attenuation:
        """Attenuation at the positions [client, 2]."""
        ...


class SmallScale(Protocol):
    """Fading as a function of the round."""

    def power_gain(self, round_index: int, clients: Clients = None) -> FloatArray:
        """Power gain [client] of mean 1, known at least for `clients` (None: all); else NaN."""
        ...


Kept: TypeAlias = MutableMapping[Hashable, Any]
"""What was drawn, by what it depends on."""


def remembered(kept: Kept | None, key: Hashable, draw: Callable[[], Any]) -> Any:
    """What was drawn under this key before, or is drawn now."""
    if kept is None:
        return draw()
    if key not in kept:
        kept[key] = draw()
    return kept[key]


class DistanceAttenuation:
    """Free space or log-distance over the horizontal distance, with one shadowing map."""

    def __init__(self, settings: CellSettings, seed: int) -> None:
        self._settings = settings
        given = settings.shadowing_db
        self._shadowing_db = _SHADOWING_DB[settings.path_loss] if given is None else given
        distance = settings.shadowing_distance_m or _SHADOWING_DISTANCE_M
        self._map = SpatialField(seed, "shadowing", distance)

    def at(self, position_m: FloatArray) -> Attenuation:
        """Attenuation at the positions [client, 2]."""
        cell, distance = self._settings, distance_2d_m(position_m)
        if cell.path_loss == "free_space":
            path_loss = free_space_db(distance, cell.carrier_hz)
        else:
            path_loss = log_distance_db(
                distance, cell.log_distance_intercept_db, cell.log_distance_slope_db
            )
        return Attenuation(path_loss, self._shadowing_db * self._map.at(position_m), None)


class ScenarioAttenuation:
    """TR 38.901 path loss, with maps of sight and of shadowing that a walking client crosses.

    A client sees the base station where a uniform random field (decorrelation distance of Table
    7.6.3.1-2) is below the probability of sight at its distance. Shadowing has one map for each
    state, scaled by that state's standard deviation.
    """

    def __init__(
        self,
        scenario: tr38901.Scenario,
        settings: CellSettings,
        seed: int,
        kept: Kept | None = None,
    ) -> None:
        """`kept` has what was computed before, of the same cell and seed; None: it is not kept."""
        name, given = settings.path_loss, settings.shadowing_distance_m
        blocked_m, sighted_m = tr38901.SHADOWING_DISTANCE_M[name]
        self._scenario, self._shadowing_db = scenario, settings.shadowing_db
        self._sight_map = SpatialField(seed, "line of sight", tr38901.SIGHT_DISTANCE_M[name])
        self._maps = (
            SpatialField(seed, "shadowing without sight", given or blocked_m),
            SpatialField(seed, "shadowing with sight", given or sighted_m),
        )
        self._latest: tuple[FloatArray, Attenuation] | None = None
        self._kept = kept

    def at(self, position_m: FloatArray) -> Attenuation:
        """Attenuation at the positions [client, 2]."""
        # Path loss and fading use the same places, and so does every round while clients stand.
        if self._latest is None or not np.array_equal(self._latest[0], position_m):
            key = "place", position_m.tobytes()
            found: Attenuation = remembered(self._kept, key, lambda: self._compute(position_m))
            self._latest = (position_m.copy(), found)
        return self._latest[1]

    def _compute(self, position_m: FloatArray) -> Attenuation:
        from scipy.special import ndtr

        both = self._scenario.large_scale(position_m)
        sight = ndtr(self._sight_map.at(position_m)) < both.sight_probability
        normal = np.empty(len(position_m))
        for state, which in ((self._maps[0], ~sight), (self._maps[1], sight)):
            normal[which] = state.at(position_m[which])
        deviation = np.where(sight, both.shadowing_db[1], both.shadowing_db[0])
        if self._shadowing_db is not None:
            deviation = np.full_like(deviation, self._shadowing_db)
        path_loss = np.where(sight, both.path_loss_db[1], both.path_loss_db[0])
        return Attenuation(path_loss, deviation * normal, sight)


_Rays: TypeAlias = tuple[int, int, bytes, bytes]
"""Whose rays: the round of the draw, rounds since then, who is in sight, and the clients."""


class RayFading:
    """TR 38.901 rays: drawn for each stretch of the walk, turned by Doppler along it.

    A stretch is the renewal distance of the scenario; along it a client keeps the place, for the
    rays' angles, and the velocity, for their Doppler shifts, that it had at the start. Clients that
    stand keep their rays; a correlation of 0 draws new rays every round, 1 keeps those of
    round 0.
    """

    def __init__(
        self,
        scenario: tr38901.Scenario,
        walk: RandomWaypoint,
        place: LargeScale,
        settings: CellSettings,
        seed: int,
        kept: Kept | None = None,
        until: int = 0,
    ) -> None:
        """`kept` as for `ScenarioAttenuation`: the rays, which do not depend on the band. Where it
        keeps them, those of several rounds before `until` are drawn together."""
        self._scenario, self._walk, self._place = scenario, walk, place
        self._settings, self._seed, self._kept = settings, seed, kept
        self._until = 0 if kept is None else until
        self._latest: tuple[tuple[int, int, bytes], FloatArray] | None = None

    def power_gain(self, round_index: int, clients: Clients = None) -> FloatArray:
        """Power gain [client] over the whole band, of mean 1; NaN for others than `clients`."""
        start, moved, sight = self._situation(round_index)
        key = (start, moved, sight.tobytes())
        if self._latest is None or self._latest[0] != key:
            self._latest = (key, np.full(len(sight), np.nan))
        known = self._latest[1]
        wanted = np.ones(len(sight), np.bool_)
        if clients is not None:
            wanted = np.zeros(len(sight), np.bool_)
            wanted[clients] = True
        new = np.flatnonzero(wanted & np.isnan(known))
        if len(new):
            known[new] = self._draw(round_index, new)
        return np.where(wanted, known, np.nan)

    def _situation(self, round_index: int) -> tuple[int, int, NDArray[np.bool_]]:
        """The round in which the rays were drawn, rounds since then, and who is in sight."""
        start = self._start(round_index)
        sight = self._place.at(self._walk.position(round_index)).line_of_sight
        assert sight is not None
        return start, 0 if self._way_m() == 0 else round_index - start, sight

    def _way_m(self) -> float:
        """Way between two rounds that the rays notice."""
        if self._settings.fading_correlation == 1:
            return 0.0
        return self._settings.speed_m_s * self._settings.round_interval_s

    def _start(self, round_index: int) -> int:
        """The round in which the rays of this round were drawn."""
        if self._settings.fading_correlation == 0:
            return round_index
        renewal = tr38901.RENEWAL_DISTANCE_M[self._settings.path_loss]
        return stretch_start(round_index, self._way_m(), renewal)

    def _draw(self, round_index: int, clients: NDArray[np.int64]) -> FloatArray:
        """The gain of these clients, in ascending order."""
        kept: Kept = {} if self._kept is None else self._kept
        own = self._key(round_index, clients)
        if own not in kept:
            at_once = max(1, tr38901.AT_ONCE // len(clients))
            end = max(round_index + 1, min(round_index + at_once, self._until))
            rounds = range(round_index, end)
            missing = {self._key(index, clients) for index in rounds} - kept.keys()
            for moved in sorted({key[1] for key in missing}):
                alike = sorted(key for key in missing if key[1] == moved)
                kept.update(zip(alike, self._responses(alike, clients), strict=True))
        amplitude, delay_s = kept[own]
        return tr38901.band_power_gain(amplitude, delay_s, self._settings.bandwidth_hz)

    def _key(self, round_index: int, clients: NDArray[np.int64]) -> _Rays:
        start, moved, sight = self._situation(round_index)
        return start, moved, sight[clients].tobytes(), clients.tobytes()

    def _responses(
        self, keys: Sequence[_Rays], clients: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.complex128], FloatArray]]:
        """Amplitudes and delays [client, path] of rounds equally long after their draw."""
        groups, which = np.unique(clients // tr38901.GROUP, return_inverse=True)
        places = which * tr38901.GROUP + clients % tr38901.GROUP
        drops = [self._drop(key, clients) for key in keys]
        amplitude, delay_s = self._scenario.impulse_response(
            tr38901.Drop(*(np.concatenate(parts) for parts in zip(*drops, strict=True))),
            keys[0][1] * self._settings.round_interval_s,
            [integer_seed(self._seed, "rays", key[0], int(n)) for key in keys for n in groups],
            np.concatenate([places + k * len(groups) * tr38901.GROUP for k in range(len(keys))]),
        )
        pieces = np.arange(1, len(keys)) * len(clients)
        return zip(np.split(amplitude, pieces), np.split(delay_s, pieces), strict=True)

    def _drop(self, key: _Rays, clients: NDArray[np.int64]) -> tuple[Any, Any, Any]:
        """Positions, velocities and sight of the clients when their rays were drawn."""
        start, _, sight, _ = key
        velocity = self._walk.direction(start)[clients] * self._settings.speed_m_s
        return self._walk.position(start)[clients], velocity, np.frombuffer(sight, np.bool_)


def stretch_start(round_index: int, way_m: float, stretch_m: float) -> int:
    """The first round on the same stretch of a walk that covers `way_m` between rounds."""
    if way_m == 0:
        return 0
    stretch = np.floor(way_m * round_index / stretch_m)
    start = max(int(stretch * stretch_m / way_m) - 1, 0)
    # The quotient may be off by rounding: search by the same expression.
    while np.floor(way_m * start / stretch_m) < stretch:
        start += 1
    return start
