"""Transmit power over subchannels: the least power for a rate, the least deadline for a power.

A link is a set of orthogonal subchannels, each owned by one client. `noise_to_gain` is N0 / g in
W/Hz: the received signal-to-noise ratio is transmit power spectral density over it; infinity means
that the client has no signal there.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airtune.errors import InputError
from airtune.quantities import FloatArray

LN2 = float(np.log(2.0))
UNUSED = -1
"""The owner of a subchannel without a client."""
_TOLERANCE = 1e-12
# Relative width of the final bracket of a deadline's window.
_PASSES = 200
# Newton needs about eight passes; the bound only ends the loop in case of a defect.

Owners = NDArray[np.intp]
"""Which client owns each subchannel [subchannel], or UNUSED."""


@dataclass(frozen=True)
class Uplink:
    """One server's subchannels and the clients' transmitters.

    Args:
        bandwidth_hz: width of each subchannel [subchannel], > 0.
        noise_to_gain: N0 / g [client, subchannel], W/Hz, > 0; inf where there is no signal.
        power_max_w: cap of each client's power on this link [client], >= 0.
        power_total_w: cap of all clients' power together on this link, >= 0.

    Raises:
        InputError: a value outside these ranges, or arrays that do not fit together.
    """

    bandwidth_hz: FloatArray
    noise_to_gain: FloatArray
    power_max_w: FloatArray
    power_total_w: float

    def __post_init__(self) -> None:
        shape = (len(self.power_max_w), len(self.bandwidth_hz))
        if self.noise_to_gain.shape != shape:
            allowed = f"an array of {shape[0]} clients x {shape[1]} subchannels"
            raise InputError("noise_to_gain", f"of shape {self.noise_to_gain.shape}", allowed)
        width, total = self.bandwidth_hz, np.asarray(self.power_total_w)
        _refuse("bandwidth_hz", width, np.isfinite(width) & (width > 0), "finite and > 0")
        _refuse("noise_to_gain", self.noise_to_gain, self.noise_to_gain > 0, "> 0, or inf")
        for name, cap in (("power_max_w", self.power_max_w), ("power_total_w", total)):
            _refuse(name, cap, np.isfinite(cap) & (cap >= 0), "finite and >= 0")

    @property
    def clients(self) -> int:
        return len(self.noise_to_gain)

    @property
    def subchannels(self) -> int:
        return len(self.bandwidth_hz)

    def select(self, clients: NDArray[np.intp]) -> "Uplink":
        """The link without the other clients."""
        noise, caps = self.noise_to_gain[clients], self.power_max_w[clients]
        return Uplink(self.bandwidth_hz, noise, caps, self.power_total_w)

    def is_flat(self) -> bool:
        """Whether subchannels are interchangeable: equal widths, and equal gains per client."""
        first = self.noise_to_gain[:, :1]
        return bool(
            np.all(self.bandwidth_hz == self.bandwidth_hz[0])
            and np.all(self.noise_to_gain == first)
        )


@dataclass(frozen=True)
class Demand:
    """What each client must get through: `fixed_delay_s + payload_bits / rate` is its delay.

    Args:
        payload_bits: [client], >= 0; a client without payload needs no subchannel.
        fixed_delay_s: delay before it can send [client], >= 0.
    """

    payload_bits: FloatArray
    fixed_delay_s: FloatArray

    def __post_init__(self) -> None:
        for name in ("payload_bits", "fixed_delay_s"):
            values = getattr(self, name)
            _refuse(name, values, np.isfinite(values) & (values >= 0), "finite and >= 0")

    def select(self, clients: NDArray[np.intp]) -> "Demand":
        """The demand of some clients only."""
        return Demand(self.payload_bits[clients], self.fixed_delay_s[clients])

    @property
    def sends(self) -> NDArray[np.bool_]:
        """The clients that have something to send [client]."""
        return self.payload_bits > 0

    @property
    def latest_start_s(self) -> float:
        """The largest fixed delay of a client that sends: no deadline can be at or below it."""
        return float(np.max(self.fixed_delay_s, initial=0.0, where=self.sends))

    def rates_within(self, window_s: FloatArray) -> FloatArray:
        """Rates [bit/s, ..., client] that meet the deadline `latest_start_s + window_s` [...].

        Deadlines are handled as windows after the latest start, because a transmission may be
        shorter than the spacing of floats at the size of the fixed delay.
        """
        lead = np.where(self.sends, self.latest_start_s - self.fixed_delay_s, 0.0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rate = self.payload_bits / (lead + np.asarray(window_s)[..., None])
        return np.where(self.sends, rate, 0.0)

    def windows(self, rate_bps: FloatArray) -> FloatArray:
        """The window after the latest start that each client needs at its rate [..., client]."""
        lead = np.where(self.sends, self.latest_start_s - self.fixed_delay_s, np.inf)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where(self.sends, self.payload_bits / rate_bps - lead, -np.inf)

    def deadline(self, window_s: float) -> float:
        """The delay of the slowest client when all that send finish by `window_s`."""
        idle = np.max(self.fixed_delay_s, initial=0.0, where=~self.sends)
        return float(max(idle, self.latest_start_s + window_s if self.sends.any() else 0.0))


@dataclass(frozen=True)
class WaterFilling:
    """The least power for a rate, and the largest rate for a power, over each client's subchannels.

    `min sum_i b_i p_i  s.t.  sum_i b_i log2(1 + p_i / n_i) >= R,  p >= 0` is solved by
    `p_i = max(level - n_i, 0)` (Boyd and Vandenberghe, Convex Optimization, example 5.2, with
    widths). With `h_i = ln(n_i / n_min)` ascending and `y = ln(level / n_min)`, the rate is
    `sum_i b_i max(y - h_i, 0) / ln 2`, the largest of the lines `(B_j y - C_j) / ln 2` over
    prefixes j, so `y = min_j (R ln 2 + C_j) / B_j` needs no search for the active set. Powers are
    differences of exponentials, taken with expm1, so that weak and strong signals are equally
    accurate.

    All arrays may carry leading axes (several assignments at once). Slots that a client does not
    use have width 0 and height 0 behind its own.
    """

    floor_w_hz: FloatArray  # [..., client]: n_min, inf for a client without a subchannel
    width_hz: FloatArray  # [..., client, slot]
    height: FloatArray  # [..., client, slot]

    @classmethod
    def of_slots(cls, width_hz: FloatArray, noise_to_gain: FloatArray) -> "WaterFilling":
        """From unsorted slots [..., client, slot]; an unused slot has noise_to_gain = inf."""
        order = np.argsort(noise_to_gain, axis=-1, kind="stable")
        noise = np.take_along_axis(noise_to_gain, order, axis=-1)
        usable = np.isfinite(noise)
        width = np.where(usable, np.take_along_axis(width_hz, order, axis=-1), 0.0)
        floor = noise[..., 0]
        with np.errstate(invalid="ignore"):
            height = np.where(usable, np.log(noise / floor[..., None]), 0.0)
        return cls(floor, width, height)

    @classmethod
    def of_owners(cls, link: Uplink, owner: Owners) -> "WaterFilling":
        """From an assignment of the link's subchannels."""
        used = np.flatnonzero(owner != UNUSED)
        used = used[np.argsort(owner[used], kind="stable")]
        counts = np.bincount(owner[used], minlength=link.clients)
        slot = np.arange(len(used)) - np.repeat(np.cumsum(counts) - counts, counts)
        width = np.zeros((link.clients, max(int(counts.max(initial=0)), 1)))
        noise = np.full(width.shape, np.inf)
        width[owner[used], slot] = link.bandwidth_hz[used]
        noise[owner[used], slot] = link.noise_to_gain[owner[used], used]
        return cls.of_slots(width, noise)

    def level(self, rate_bps: FloatArray) -> FloatArray:
        """`y = ln(water level / n_min)` [..., client]; inf where no power reaches the rate."""
        width = np.cumsum(self.width_hz, axis=-1)
        area = np.cumsum(self.width_hz * self.height, axis=-1)
        nats = np.asarray(rate_bps)[..., None] * LN2
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.min((nats + area) / width, axis=-1)
        return np.where(np.asarray(rate_bps) > 0, level, 0.0)

    def psd(self, level: FloatArray) -> FloatArray:
        """Power spectral density of each slot [W/Hz, ..., client, slot] at this water level."""
        above = np.maximum(level[..., None] - self.height, 0.0)
        wet = (above > 0) & (self.width_hz > 0)
        with np.errstate(over="ignore", invalid="ignore"):
            density = self.floor_w_hz[..., None] * np.exp(self.height) * np.expm1(above)
        return np.where(wet, density, 0.0)

    def power_for(self, rate_bps: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Least power [W, ..., client] for the rate, and its derivative with respect to rate [J].

        Infinite where no power reaches the rate. The derivative is `ln 2` times the water level.
        """
        level = self.level(rate_bps)
        with np.errstate(over="ignore", invalid="ignore"):
            power = np.sum(self.psd(level) * self.width_hz, axis=-1)
            slope = LN2 * self.floor_w_hz * np.exp(level)
        return np.where(np.isinf(level), np.inf, power), slope

    def rate_at(self, power_w: FloatArray) -> FloatArray:
        """Largest rate [bit/s, ..., client] for a power; 0 for a client without a subchannel."""
        width = np.cumsum(self.width_hz, axis=-1)
        volume = np.cumsum(self.width_hz * np.expm1(self.height), axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = np.min((power_w / self.floor_w_hz)[..., None] / width + volume / width, axis=-1)
            above = np.maximum(np.log1p(depth)[..., None] - self.height, 0.0)
            rate = np.sum(self.width_hz * above, axis=-1) / LN2
        return np.where(np.isfinite(self.floor_w_hz), rate, 0.0)


def least_window(filling: WaterFilling, link: Uplink, demand: Demand) -> FloatArray:
    """Shortest window after the latest start in which all clients can send [...].

    `min x  s.t.  P_k(D_k / (x + lead_k)) <= p_max_k,  sum_k P_k(...) <= p_total`, where P_k is the
    water-filling power of a rate. The caps of single clients give a lower end in closed form. If
    the total cap is broken there, the root of `ln sum P_k(x) = ln p_total` is found by Newton's
    iteration (the sum is convex and decreasing), kept inside a bracket by bisection; the upper end
    of the bracket, which satisfies every cap, is returned. Infinite where no window suffices.
    """
    sends = demand.sends
    if not sends.any():
        return np.zeros(filling.floor_w_hz.shape[:-1])
    low: FloatArray = np.max(demand.windows(filling.rate_at(link.power_max_w)), axis=-1)
    # Sharing the total in proportion to the caps breaks neither kind of cap.
    wanted = float(np.sum(link.power_max_w[sends]))
    share = min(link.power_total_w / wanted, 1.0) if wanted > 0 else 0.0
    high = np.max(demand.windows(filling.rate_at(link.power_max_w * share)), axis=-1)
    if share == 1.0:
        return low
    return _window_of_total(filling, demand, link.power_total_w, low, np.maximum(low, high))


def _window_of_total(
    filling: WaterFilling, demand: Demand, total_w: float, low: FloatArray, high: FloatArray
) -> FloatArray:
    """Root of `sum P_k(x) = total_w` in [low, high]; `low` where even that one keeps the total."""
    x = low
    for trial in range(_PASSES):
        rate = demand.rates_within(x)
        power, energy_per_bit = filling.power_for(rate)
        total = np.sum(power, axis=-1)
        fits = total <= total_w
        low, high = np.where(fits, low, x), np.where(fits, x, high)
        if np.all(np.isinf(high) | (high <= low * (1 + _TOLERANCE))):
            break
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            # d rate / d window = -rate^2 / payload; Newton on the logarithm of the total.
            per_bit = np.where(demand.sends, rate * rate / demand.payload_bits, 0.0)
            fall = np.sum(energy_per_bit * per_bit, axis=-1, where=per_bit > 0)
            step = x + np.log(total / total_w) * total / fall
        # Newton ends beside the root: a step past it closes the bracket from the other side.
        step *= np.where(fits, 1 - 0.4 * _TOLERANCE, 1 + 0.4 * _TOLERANCE)
        inside = (step > low) & (step < high) & (trial < 20 or trial % 2 == 0)
        x = np.where(inside, step, 0.5 * (low + high))
    return high


@dataclass(frozen=True)
class PowerControl:
    """The answer of `control_power`: powers that meet the shortest deadline with the least power.

    `deadline_s` is infinite and the densities 0 if no power meets any deadline.
    """

    deadline_s: float
    psd_w_per_hz: FloatArray  # [subchannel]
    rate_bps: FloatArray  # [client]
    power_w: FloatArray  # [client]


def control_power(link: Uplink, owner: Owners, demand: Demand) -> PowerControl:
    """Min-max delay over power for a fixed assignment: exact, and of all answers the least power.

    `min_p max_k (fixed_k + payload_k / R_k(p))`, each client at most `power_max_w` and all together
    at most `power_total_w`: `least_window` by water-filling, then each client takes the least power
    that meets the deadline.
    """
    filling = WaterFilling.of_owners(link, owner)
    window = float(least_window(filling, link, demand))
    if not np.isfinite(window):
        nothing = np.zeros(link.clients)
        return PowerControl(np.inf, np.zeros(link.subchannels), nothing, nothing)
    level = filling.level(demand.rates_within(np.asarray(window)))
    psd = np.zeros(link.subchannels)
    used = np.flatnonzero(owner != UNUSED)
    noise = link.noise_to_gain[owner[used], used]
    with np.errstate(invalid="ignore"):
        above = level[owner[used]] - np.log(noise / filling.floor_w_hz[owner[used]])
    wet = np.isfinite(noise) & (above > 0)
    psd[used[wet]] = noise[wet] * np.expm1(above[wet])
    return PowerControl(demand.deadline(window), psd, *measure(link, owner, psd))


def measure(link: Uplink, owner: Owners, psd_w_per_hz: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rate [bit/s] and power [W] of every client, straight from its densities.

    `rate_k = sum over its subchannels of b_i log2(1 + p_i / n_ki)`, `power_k = sum b_i p_i`.
    """
    used = owner != UNUSED
    who = owner[used]
    width, psd = link.bandwidth_hz[used], psd_w_per_hz[used]
    carried = width * np.log1p(psd / link.noise_to_gain[who, np.flatnonzero(used)]) / LN2
    rate = np.bincount(who, carried, minlength=link.clients).astype(np.float64)
    power = np.bincount(who, width * psd, minlength=link.clients).astype(np.float64)
    return rate, power


def _refuse(name: str, values: FloatArray, good: NDArray[np.bool_], allowed: str) -> None:
    """Raise InputError that names the first entry that is not good."""
    bad = np.argwhere(~good)
    if len(bad):
        where = "".join(f"[{index}]" for index in bad[0])
        raise InputError(f"{name}{where}", float(values[tuple(bad[0])]), allowed)
