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
and a step of Newton's iteration in `z = ln(e^u - 1)`, the logarithm of the signal-to-noise ratio,
in which their logarithms are nearly straight. The energy is jointly convex in (b, t), so these
points are global minima: the dual function of `dual.py` rests on them.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np

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
    if not small.any():
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

    def moved(self, by: FloatArray) -> "_Point":
        """The point at z + by, for steps of 1e-6 and less."""
        step = self._share() * by
        change = self.u * self.snr * by
        return _Point(self.u + step, self.snr * (1.0 + by), self.psi + change)


@dataclass(frozen=True)
class _Table:
    """z against the logarithm of a left side, at equal distances."""

    first: float
    z: FloatArray
    full: bool

    def at(self, log_right: FloatArray) -> _Point:
        """The point at which the left side has this logarithm, by the table and a Newton step.

        A straight line between two places of the table errs by 1e-6 at most, and Newton's step
        squares that.
        """
        place = np.clip((log_right - self.first) / _FINE, 0.0, len(self.z) - 1.001)
        index = place.astype(np.intp)
        low = self.z[index]
        z = low + (place - index) * (self.z[index + 1] - low)
        point = _Point.at(z)
        value, slope = point.full() if self.full else point.below()
        step = (self.first + place * _FINE - value) / slope
        return point.moved(step)


@cache
def _table(full: bool) -> _Table:
    grid = np.arange(_LEAST_Z, _MOST_Z, _COARSE)
    coarse = _Point.at(grid)
    values = (coarse.full() if full else coarse.below())[0]
    wanted = np.arange(values[0], values[-1], _FINE)
    z = np.interp(wanted, values, grid)
    for _ in range(3):
        point = _Point.at(z)
        value, slope = point.full() if full else point.below()
        z = z + (wanted - value) / slope
    return _Table(float(wanted[0]), z, full)


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
            speed = np.where(self.compute_s > 0, self.compute_s / time_s, 0.0)
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
            cube = (self.idle_w + value_w) / (2.0 * (self.full_w - self.idle_w))
            slower = cube < 1.0
            time_s = self.compute_s / np.where(slower, np.cbrt(cube), 1.0)
            slope = np.where(slower, value_w / (-3.0 * (self.idle_w + value_w)), 0.0)
        return np.where(self.compute_s > 0, time_s, 0.0), slope

    def upload(self, log_price: FloatArray, log_value: FloatArray) -> Uploading:
        """The best uploads [client] at ln of prices on bandwidth and of values of time.

        Every client has something to send, and a link.
        """
        found = self._below(log_price, log_value)
        full = ~(found.power_share < 1.0)
        fixed = self.efficiency > 0
        if fixed.any():
            full &= ~fixed
            put_at(found, fixed, self.select(fixed)._fixed(log_price[fixed], log_value[fixed]))
        if full.any():
            index = np.flatnonzero(full)
            put_at(found, index, self.select(index)._full(log_price[index], log_value[index]))
        return found

    def _below(self, log_price: FloatArray, log_value: FloatArray) -> Uploading:
        """Below full power; not meant where the share of power is above 1."""
        log_right = 0.5 * (log_price + log_value - self.log_nats) + self.log_gain
        if (self.efficiency > 0).any():
            log_right = np.where(self.efficiency > 0, 0.0, log_right)
        point = _table(False).at(log_right)
        band = np.exp(0.5 * (log_value + self.log_nats - log_price)) / np.sqrt(point.u)
        with np.errstate(divide="ignore"):
            share = band * point.snr / self.cn0_hz
        bend = point.u * point.u * (1.0 + point.snr) / point.psi
        slope = 1.0 / (2.0 * bend - 1.0)
        rise, fall = (bend - 1.0) * slope, -bend * slope
        time_s = self.nats / (point.u * band)
        return Uploading(time_s, band, share, fall, rise, rise.copy(), fall.copy())

    def _full(self, log_price: FloatArray, log_value: FloatArray) -> Uploading:
        """At full power."""
        value_w = np.exp(log_value)
        paid_w = self.sending_w + value_w
        log_right = log_price - np.log(paid_w) - self.log_nats + 2.0 * np.log(self.cn0_hz)
        point = _table(True).at(log_right)
        band = self.cn0_hz / point.snr
        growth = point.u * (1.0 + point.snr) / point.snr
        bend = point.u**2 * (1.0 + point.snr) / point.psi
        by_price = 1.0 / (bend + 2.0 * growth - point.u - 2.0)
        by_value = -value_w / paid_w * by_price
        return Uploading(
            self.nats / (point.u * band),
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
