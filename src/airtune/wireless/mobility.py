"""Where clients are in each round: a drop in the cell, then a random-waypoint walk."""

from itertools import count

import numpy as np

from airtune.quantities import FloatArray
from airtune.seeds import generator


class RandomWaypoint:
    """Clients walk at constant speed from one uniformly drawn point of the cell to the next.

    The cell is the ring between `min_distance_m` and `radius_m` around the base station at the
    origin. Waypoints are uniform in area. A walk takes the shortest way that stays in the ring: the
    straight line, or, where that would pass too close to the mast, two tangents and an arc. There
    are no pauses. (D. B. Johnson, D. A. Maltz, "Dynamic source routing in ad hoc wireless
    networks", 1996.)

    Round 0 is drawn from the walk's stationary law, so that every round has the same one: the leg
    that a client is on has the density of two waypoints times its length, and the client is
    uniformly far along it (W. Navidi, T. Camp, "Stationary distributions for the random waypoint
    mobility model", IEEE Trans. Mobile Computing 3(1), 2004; without pauses and with one speed).
    That law is denser in the middle of the cell than the uniform one. Clients that stand
    (`step_m` 0) are uniform in area.

    The place in round t depends on (seed, t) alone, not on earlier calls, and adding clients
    at the end changes none of those before.
    """

    def __init__(
        self,
        seed: int,
        clients: int,
        radius_m: float,
        min_distance_m: float,
        step_m: float,
        *,
        stationary: bool = True,
    ) -> None:
        """`step_m` is the way that a client goes between two rounds: speed times interval.

        Without `stationary` clients start uniform in area, each at the start of a leg; the law of
        the places then changes over the first rounds.
        """
        self._seed, self._clients = seed, clients
        self._radius_m, self._min_distance_m, self._step_m = radius_m, min_distance_m, step_m
        self._points = [self._ring(generator(seed, "mobility", 0).random((clients, 2)))]
        # Way from the start to each waypoint, [waypoint][client].
        self._arrival = [np.zeros(clients)]
        if step_m > 0 and stationary:
            self._begin_on_a_leg()

    def position(self, round_index: int) -> FloatArray:
        """Positions [client, 2] in m, the base station at the origin."""
        return self._along(self._step_m * round_index)

    def direction(self, round_index: int) -> FloatArray:
        """Unit vectors [client, 2] of the walk; zero for clients that stand."""
        if self._step_m == 0:
            return np.zeros((self._clients, 2))
        way = self._step_m * round_index
        # A millimetre ahead: on an arc the tangent, at a corner between both legs.
        ahead = self._along(way + 1e-3) - self._along(way)
        norm = np.hypot(ahead[:, 0], ahead[:, 1])[:, None]
        return ahead / np.where(norm > 0, norm, 1.0)

    def _begin_on_a_leg(self) -> None:
        """Draw each client's first leg, with density proportional to its length, and its place.

        Rejection: legs between uniform points are kept with probability length / longest; nearly
        half of them are. Each client keeps its first one, so others do not change it.
        """
        start, end = np.empty((2, self._clients, 2))
        length, done = np.empty((2, self._clients))
        missing = np.arange(self._clients)
        for attempt in count():
            draws = generator(self._seed, "mobility start", attempt).random((self._clients, 6))
            draws = draws[missing]
            one, other = self._ring(draws[:, 0:2]), self._ring(draws[:, 2:4])
            leg = _leg_length(one, other, self._min_distance_m)
            kept = draws[:, 4] * self._longest_leg() < leg
            who = missing[kept]
            start[who], end[who], length[who] = one[kept], other[kept], leg[kept]
            done[who] = draws[kept, 5]
            missing = missing[~kept]
            if not len(missing):
                break
        self._points = [start, end]
        self._arrival = [-done * length, (1.0 - done) * length]

    def _longest_leg(self) -> float:
        """Between opposite points of the outer rim: a leg's length grows with both distances."""
        rim = np.array([[self._radius_m, 0.0]])
        return float(_leg_length(rim, -rim, self._min_distance_m)[0])

    def _along(self, way_m: float) -> FloatArray:
        if way_m == 0 and not self._arrival[0].any():
            return self._points[0].copy()
        while np.min(self._arrival[-1]) <= way_m:
            draws = generator(self._seed, "mobility", len(self._points)).random((self._clients, 2))
            self._points.append(self._ring(draws))
            leg = _leg_length(self._points[-2], self._points[-1], self._min_distance_m)
            self._arrival.append(self._arrival[-1] + leg)
        # The leg of each client: the last waypoint that it has passed.
        leg = np.count_nonzero(np.array(self._arrival) <= way_m, axis=0) - 1
        who, points = np.arange(self._clients), np.array(self._points)
        rest = way_m - np.array(self._arrival)[leg, who]
        return _walk(points[leg, who], points[leg + 1, who], rest, self._min_distance_m)

    def _ring(self, draws: FloatArray) -> FloatArray:
        """Points [client, 2] of the ring, uniform in area, from uniform draws [client, 2]."""
        inner, outer = self._min_distance_m**2, self._radius_m**2
        distance = np.sqrt(inner + (outer - inner) * draws[:, 0])
        angle = 2.0 * np.pi * draws[:, 1]
        return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)


def _detour(
    start: FloatArray, end: FloatArray, radius: float
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Tangent lengths, arc angle (negative: the straight line is free), bearing and turn [client].

    Seen from the origin, the tangent points lie `acos(radius / |start|)` behind the start and
    `acos(radius / |end|)` before the end; what is left of the angle between both is the arc.
    """
    start_distance, end_distance = _norm(start), _norm(end)
    bearing = np.arctan2(start[:, 1], start[:, 0])
    turn = np.arctan2(
        start[:, 0] * end[:, 1] - start[:, 1] * end[:, 0], np.sum(start * end, axis=1)
    )
    first = np.sqrt(np.maximum(start_distance**2 - radius**2, 0.0))
    last = np.sqrt(np.maximum(end_distance**2 - radius**2, 0.0))
    arc = np.abs(turn) - np.arctan2(first, radius) - np.arctan2(last, radius)
    return first, last, arc, bearing, np.sign(turn)


def _leg_length(start: FloatArray, end: FloatArray, radius: float) -> FloatArray:
    first, last, arc, _, _ = _detour(start, end, radius)
    return np.where(arc > 0, first + radius * arc + last, _norm(end - start))


def _walk(start: FloatArray, end: FloatArray, way: FloatArray, radius: float) -> FloatArray:
    """The places [client, 2] after `way` metres [client] on the legs from start to end."""
    first, last, arc, bearing, sign = _detour(start, end, radius)
    length = np.where(arc > 0, first + radius * arc + last, _norm(end - start))
    straight = start + (end - start) * (way / np.where(length > 0, length, 1.0))[:, None]
    entry = bearing + sign * np.arctan2(first, radius)
    on_arc = np.clip(way - first, 0.0, radius * np.maximum(arc, 0.0))
    bend = entry + sign * on_arc / radius
    tangent = np.stack([-np.sin(bend), np.cos(bend)], axis=1) * sign[:, None]
    corner = radius * np.stack([np.cos(bend), np.sin(bend)], axis=1)
    # Before the arc the walk is a negative way along the tangent, after it a positive one.
    off_arc = np.minimum(way - first, 0.0) + np.maximum(way - first - radius * arc, 0.0)
    return np.where((arc > 0)[:, None], corner + tangent * off_arc[:, None], straight)


def _norm(vector: FloatArray) -> FloatArray:
    return np.hypot(vector[:, 0], vector[:, 1])


def distance_2d_m(position_m: FloatArray) -> FloatArray:
    """Horizontal distance [client] from the base station at the origin."""
    return _norm(position_m)
