"""The best upload and the best speed of a client at a price on bandwidth and a value of its time.

With a price m on bandwidth [J/Hz] and a value w of the client's time [W] a client minimises

    E + m b + w (c / s + t)      over the speed s, the upload time t, bandwidth and power.

Computing and sending separate. The speed is `((idle + w) / (2 (full - idle)))^(1/3)`, at most 1.
With `a = S ln 2` nats, `u = a / (b t)` nats per hertz and second, and `G = W / cn0`, the upload's
energy is `G a (e^u - 1) / u`, and with `psi(u) = u e^u - e^u + 1` the upload is best where

    below full power:   psi(u) / sqrt(u) = sqrt(m w / a) / G,
                        b = sqrt(w a / (u m)),  t = a / (u b);
    at full power:      psi(u) (e^u - 1)^2 / (u^2 e^u) = m cn0^2 / ((W + w) a),
                        b = cn0 / (e^u - 1),    t = a / (u b);
    at fixed efficiency e:  b = sqrt((W + w) S / (e m)),  t = S / (e b).

Both left sides grow from 0 without bound, are the same for all clients, and are inverted by a table
of cubics in `z = ln(e^u - 1)`, the logarithm of the signal-to-noise ratio, in which their
logarithms are nearly straight. The energy is jointly convex in (b, t), so these points are global
minima: the dual function of `dual.py` rests on them.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.energy.problem import EnergyProblem, frugal_speed
from airtune.quantities import FloatArray
from airtune.wireless.rate import LN2, Index

_SMALL = 0.1
# Below it psi is summed as a series, since its closed form cancels.
_SERIES = tuple(float((k - 1) / np.prod(np.arange(1, k + 1))) for k in range(2, 12))
_LEAST_Z, _MOST_Z = -90.0, 330.0
_COARSE, _FINE = 0.05, 0.005
# Distances of places in z, from which the table is made, and in the logarithms of the left sides.


def psi(u: FloatArray, snr: FloatArray) -> FloatArray:
    """`u e^u - e^u + 1`, with `snr = e^u - 1`; by its series for small u."""
    closed = u * snr - (snr - u)
    small = u < _SMALL
    if not np.count_nonzero(small):
        return closed
    v = np.minimum(u, _SMALL)
    total = np.zeros_like(v)
    for coefficient in reversed(_SERIES):
        total = total * v + coefficient
    return np.where(small, total * v * v, closed)


def put_at(arrays: Any, index: Index, others: Any) -> None:
    """Write the arrays of one object over some entries of those of another of its kind."""
    for name, values in vars(arrays).items():
        values[index] = getattr(others, name)


@dataclass(frozen=True)
class _Point:
    """What is known at z: u, the signal-to-noise ratio, and psi."""

    u: FloatArray
    snr: FloatArray
    psi: FloatArray

    @classmethod
    def at(cls, z: FloatArray) -> "_Point":
        snr = np.exp(z)
        u = np.log1p(snr)
        return cls(u, snr, psi(u, snr))

    def below(self) -> tuple[FloatArray, FloatArray]:
        """ln of the first left side, and its derivative in z."""
        value = np.log(self.psi / np.sqrt(self.u))
        return value, self.u * self.snr / self.psi - 0.5 * self._share() / self.u

    def full(self) -> tuple[FloatArray, FloatArray]:
        """ln of the second left side, and its derivative in z."""
        value = np.log(self.psi / (self.u * self.u)) + 2.0 * np.log(self.snr) - self.u
        share = self._share()
        slope = self.u * self.snr / self.psi + 2.0 - share * (1.0 + 2.0 / self.u)
        return value, slope

    def _share(self) -> FloatArray:
        """du/dz."""
        return self.snr / (1.0 + self.snr)


@dataclass(frozen=True)
class _Table:
    """z against the logarithm of a left side, at equal distances: cubics [place, 4] between them.

    Hermite's, of the values and slopes at both ends: with h between places they err by
    `h^4 / 384` times the fourth derivative, which is less than rounding makes of z.
    """

    first: float
    cubics: FloatArray

    def at(self, log_right: FloatArray) -> _Point:
        """The point at which the left side has this logarithm."""
        place = np.minimum(
            np.maximum((log_right - self.first) / _FINE, 0.0), len(self.cubics) - 0.001
        )
        index = place.astype(np.intp)
        place -= index
        z, linear, square, cube = self.cubics.take(index, axis=0).T
        return _Point.at(z + place * (linear + place * (square + place * cube)))


@cache
def _table(full: bool) -> _Table:
    grid = np.arange(_LEAST_Z, _MOST_Z, _COARSE)
    values = _left_side(grid, full)[0]
    # In np.arange(first, last, step) the step's rounding would add up.
    wanted = values[0] + _FINE * np.arange(int((values[-1] - values[0]) / _FINE))
    z = np.interp(wanted, values, grid)
    for _ in range(3):
        value, slope = _left_side(z, full)
        z = z + (wanted - value) / slope
    rise, steep = np.diff(z), _FINE / _left_side(z, full)[1]
    start, end = steep[:-1], steep[1:]
    cubics = np.stack([z[:-1], start, 3 * rise - 2 * start - end, start + end - 2 * rise], axis=1)
    return _Table(float(wanted[0]), cubics)


def _left_side(z: FloatArray, full: bool) -> tuple[FloatArray, FloatArray]:
    point = _Point.at(z)
    return point.full() if full else point.below()


@dataclass(frozen=True)
class Uploading:
    """Best uploads [client]: time, bandwidth, share of full power; and their elasticities.

    `time_by_value` is d ln t / d ln w, `band_by_price` is d ln b / d ln m, and so on.
    """

    time_s: FloatArray
    bandwidth_hz: FloatArray
    power_share: FloatArray
    time_by_value: FloatArray
    time_by_price: FloatArray
    band_by_value: FloatArray
    band_by_price: FloatArray


@dataclass(frozen=True)
class Clients:
    """What the curves of clients depend on; arrays have the axis [client].

    `nats` are those of the payload; `cn0_hz` is 0 for a fixed efficiency, which is 0 for others;
    `log_gain` is ln(cn0 / W).
    """

    nats: FloatArray
    cn0_hz: FloatArray
    efficiency: FloatArray
    sending_w: FloatArray
    compute_s: FloatArray
    idle_w: FloatArray
    full_w: FloatArray
    log_nats: FloatArray
    log_gain: FloatArray

    @classmethod
    def of(cls, problem: EnergyProblem) -> Self:
        """The clients of a problem."""
        nats = problem.payload_bits * LN2
        with np.errstate(divide="ignore"):
            log_nats = np.log(nats)
            log_gain = np.log(problem.cn0_hz) - np.log(problem.sending_power_w)
        return cls(
            nats,
            problem.cn0_hz,
            problem.efficiency,
            problem.sending_power_w,
            problem.compute_s,
            problem.idle_power_w,
            problem.full_power_w,
            log_nats,
            log_gain,
        )

    def select(self, index: Index) -> "Clients":
        """Some of the clients."""
        return Clients(*(values[index] for values in vars(self).values()))

    def slowest_s(self) -> FloatArray:
        """The computing time beyond which slower costs more energy [client]; inf without idling."""
        with np.errstate(divide="ignore", invalid="ignore"):
            time_s = self.compute_s / frugal_speed(self.idle_w, self.full_w)
        return np.where(self.compute_s > 0, time_s, 0.0)

    def computing_j(self, time_s: FloatArray) -> FloatArray:
        """Energy of computing for so long [client]: `idle t + (full - idle) c^3 / t^2`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            speed = self.compute_s / time_s
            energy = self.idle_w * time_s + (self.full_w - self.idle_w) * speed**2 * self.compute_s
        return np.where(self.compute_s > 0, energy, 0.0)

    def value_of_time_w(self, time_s: FloatArray) -> FloatArray:
        """What a second less would cost of computing's energy at this time [client], W; >= 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            spent = 2.0 * (self.full_w - self.idle_w) * (self.compute_s / time_s) ** 3
            saved = spent - self.idle_w
        # At the speed of least energy both are equal, but for rounding.
        return np.where((self.compute_s > 0) & (saved > 1e-12 * spent), saved, 0.0)

    def compute(self, value_w: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The best computing time at a value of time [client], and d ln(time) / d ln(value)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            paid_w = self.idle_w + value_w
            cube = paid_w / (2.0 * (self.full_w - self.idle_w))
            # NaN is a device whose speed costs nothing.
            time_s = self.compute_s / np.cbrt(np.fmin(cube, 1.0))
            slope = np.where(cube < 1.0, value_w / (-3.0 * paid_w), 0.0)
        return np.where(self.compute_s > 0, time_s, 0.0), slope

    def upload(self, log_price: FloatArray, log_value: FloatArray) -> Uploading:
        """The best uploads [client] at ln of prices on bandwidth and of values of time.

        Every client has something to send, and a link.
        """
        fixed = self.efficiency > 0
        mixed = bool(np.count_nonzero(fixed))
        with np.errstate(divide="ignore"):
            found = self._below(log_price, log_value, fixed if mixed else None)
        full = ~(found.power_share < 1.0)
        if mixed:
            full &= ~fixed
            put_at(found, fixed, self.select(fixed)._fixed(log_price[fixed], log_value[fixed]))
        if np.count_nonzero(full):
            index = np.flatnonzero(full)
            put_at(found, index, self._full(index, log_price[index], log_value[index]))
        return found

    def _below(
        self, log_price: FloatArray, log_value: FloatArray, fixed: NDArray[np.bool_] | None
    ) -> Uploading:
        """Below full power; not meant where the share of power is above 1, nor for `fixed` ones."""
        log_right = 0.5 * (log_price + log_value - self.log_nats) + self.log_gain
        if fixed is not None:
            log_right = np.where(fixed, 0.0, log_right)
        point = _table(False).at(log_right)
        u, snr = point.u, point.snr
        band = np.exp(0.5 * (log_value + self.log_nats - log_price)) / np.sqrt(u)
        bend = u * u * (1.0 + snr) / point.psi
        rise = (bend - 1.0) / (2.0 * bend - 1.0)
        fall = rise - 1.0
        share = band * snr / self.cn0_hz
        return Uploading(self.nats / (u * band), band, share, fall, rise, rise.copy(), fall.copy())

    def _full(
        self, index: NDArray[np.intp], log_price: FloatArray, log_value: FloatArray
    ) -> Uploading:
        """Of some clients, at full power."""
        nats, cn0_hz, value_w = self.nats[index], self.cn0_hz[index], np.exp(log_value)
        paid_w = self.sending_w[index] + value_w
        point = _table(True).at(log_price + np.log(cn0_hz * (cn0_hz / nats) / paid_w))
        u, snr = point.u, point.snr
        band = cn0_hz / snr
        growth = u * (1.0 + snr) / snr
        bend = growth * u * snr / point.psi
        by_price = 1.0 / (bend + 2.0 * growth - u - 2.0)
        by_value = -value_w / paid_w * by_price
        return Uploading(
            nats / (u * band),
            band,
            np.ones_like(band),
            (growth - 1.0) * by_value,
            (growth - 1.0) * by_price,
            -growth * by_value,
            -growth * by_price,
        )

    def _fixed(self, log_price: FloatArray, log_value: FloatArray) -> Uploading:
        """At a fixed spectral efficiency, with full power."""
        price, value_w = np.exp(log_price), np.exp(log_value)
        paid_w, bits = self.sending_w + value_w, self.nats / LN2
        band = np.sqrt(paid_w * bits / (self.efficiency * price))
        half = np.full_like(band, 0.5)
        by_value = 0.5 * value_w / paid_w
        time_s = bits / (self.efficiency * band)
        return Uploading(time_s, band, np.ones_like(band), -by_value, half, by_value, -half)
