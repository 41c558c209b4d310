"""Every client's best response, at a fixed deadline, to a price on pruning.

At deadline tau client n has `T_n = tau - f_n - a0_n` for what pruning shortens. With rate r it
can keep

    k = 1 - rho = (r T - s0) / (s1 + r a1)

of its model, which is concave and increasing in r, hence in the bandwidth b. If a unit of
weighted pruning costs lambda hertz, the client chooses the b that minimises `b - lambda w k(b)`:

    lambda w C r'(b) = (s1 + r(b) a1)^2,       C = s1 T + a1 s0,

or an end of its range: `1 - rho_max`, or the most that its floor or the whole band lets it keep.
Everything here is in the kept share k: where nearly all is pruned, `1 - rho` has lost its digits,
and with them the length of the upload.
"""

from dataclasses import dataclass

import numpy as np

from airtune.allocation.bandwidth import airtime_s, bandwidth_within
from airtune.allocation.pruning.problem import PruningProblem
from airtune.quantities import FloatArray
from airtune.wireless.rate import ConcaveLinks, Index

_LEAST_SHARE = 1e-24
# Of the band: where a client may send nothing, Newton in ln b still needs a finite lower end.
_MAX_PASSES = 200
_STEP = 1e-4
# Newton's last step in ln b; what is left is its square, and the cost errs by the square of that.
_LEAST_WIDTH = 1e-14
_ROUNDING = 4e-16
_BLOCK = 16_384


@dataclass(frozen=True)
class Response:
    """The clients' choices at one price.

    Attributes:
        kept, bandwidth_hz: [client].
        bandwidth_slope_hz: how the sum of the bandwidths grows with ln(price).
    """

    kept: FloatArray
    bandwidth_hz: FloatArray
    bandwidth_slope_hz: float


class AtDeadline:
    """The clients of a problem at one deadline, for any price.

    Args:
        whole_band_bps: each client's rate if it had the whole band [client].
        guess_hz: bandwidths near the answer [client]; updated in place by `respond`.

    Attributes:
        kept_least, kept_most: range of each client's kept share [client]; equal where keeping
            costs nothing.
        floor_hz, full_hz: bandwidths at `kept_least` and at `kept_most` [client].
        leave_log_price: ln(price) above which a client keeps more than `kept_least` [client].
        full_log_price: ln(price) from which it keeps as much as it can [client].
    """

    def __init__(
        self,
        problem: PruningProblem,
        deadline_s: float,
        whole_band_bps: FloatArray,
        guess_hz: FloatArray,
    ) -> None:
        self.problem = problem
        self._guess_hz = guess_hz
        self._deadline_s = deadline_s
        # At the deadline of one client's bare start, rounding could leave it less than no time.
        self._time_s = np.maximum(deadline_s - problem.earliest_start_s, 0.0)
        stake = (
            problem.prunable_bits * self._time_s + problem.prunable_compute_s * problem.fixed_bits
        )
        reachable = np.fmin(self._kept(whole_band_bps), problem.kept_most)
        self.kept_most = np.maximum(reachable, problem.kept_least)
        self.kept_least = np.where(stake > 0, problem.kept_least, self.kept_most)
        self._whole_band_bps = whole_band_bps
        self.floor_hz = self.bandwidth_for(self.kept_least)
        self.full_hz = self.bandwidth_for(self.kept_most)
        with np.errstate(divide="ignore"):
            self._log_stake = np.log(stake * problem.weight)
        self.leave_log_price = self._log_price(self.floor_hz)
        # From the left: a piecewise linear rate may have a corner just there.
        self.full_log_price = self._log_price(self.full_hz * (1.0 - 1e-12))

    def respond(self, log_price: float) -> Response:
        """Every client's choice at this price."""
        full = log_price >= self.full_log_price
        kept = np.where(full, self.kept_most, self.kept_least)
        bandwidth = np.where(full, self.full_hz, self.floor_hz)
        inner = np.flatnonzero(~full & (log_price > self.leave_log_price))
        slope = 0.0
        # In blocks that fit the processor's cache, each with as many passes as it needs.
        for start in range(0, len(inner), _BLOCK):
            block = inner[start : start + _BLOCK]
            links = self.problem.links.select(block)
            bandwidth[block], added = self._choose(links, block, log_price)
            kept[block] = self._within(links.rate(bandwidth[block]), block)
            slope += added
        return Response(kept, bandwidth, slope)

    def keep(self, bandwidth_hz: FloatArray) -> FloatArray:
        """The largest kept shares that hold the deadline with these bandwidths [client]."""
        return self._within(self.problem.links.rate(bandwidth_hz), slice(None))

    def _within(self, rate_bps: FloatArray, which: Index) -> FloatArray:
        """The largest kept shares at these rates, held in each client's range."""
        least, most = self.kept_least[which], self.kept_most[which]
        return np.maximum(np.fmin(self._kept(rate_bps, which), most), least)

    def bandwidth_for(self, kept: FloatArray) -> FloatArray:
        """The least bandwidths that hold the deadline at these kept shares [client]."""
        problem = self.problem
        rate = self._rate_bps(kept)
        return bandwidth_within(problem.links, rate, self._whole_band_bps, problem.bandwidth_hz)

    def _choose(
        self, links: ConcaveLinks, block: Index, log_price: float
    ) -> tuple[FloatArray, float]:
        """Bandwidths of the clients between their ends, and how their sum grows with ln(price)."""
        low = np.maximum(self.floor_hz[block], _LEAST_SHARE * self.problem.bandwidth_hz)
        chosen, slope = _stationary(
            links,
            log_price + self._log_stake[block],
            self.problem.prunable_bits[block],
            self.problem.prunable_compute_s[block],
            (low, self.full_hz[block]),
            self._guess_hz[block],
        )
        self._guess_hz[block] = chosen
        return chosen, float(slope.sum())

    def typical_log_price(self) -> float:
        """The median of the log prices at which clients would choose the bandwidths guessed."""
        log_price = self._log_price(np.clip(self._guess_hz, self.floor_hz, self.full_hz))
        return float(
            np.median(log_price[np.isfinite(log_price) & (self.kept_most > self.kept_least)])
        )

    def fall_hz_s(self, response: Response) -> float:
        """How fast the sum of bandwidths falls with the deadline at fixed kept shares, Hz/s."""
        problem = self.problem
        rate = self._rate_bps(response.kept)
        air_s = self._time_s - response.kept * problem.prunable_compute_s
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            fall = rate / air_s / problem.links.slope(response.bandwidth_hz)
        return float(np.where(rate > 0, fall, 0.0).sum())

    def _rate_bps(self, kept: FloatArray) -> FloatArray:
        """The rate that a client needs to be done in time [client]; inf if it cannot be."""
        air_s = self._time_s - kept * self.problem.prunable_compute_s
        bits = self.problem.fixed_bits + kept * self.problem.prunable_bits
        return airtime_s(bits, np.maximum(air_s, 0.0))

    def _kept(self, rate_bps: FloatArray, which: Index = slice(None)) -> FloatArray:
        """`(r T - s0) / (s1 + r a1)`; without a payload `T / a1`; NaN where nothing is prunable."""
        delay_s = self.problem.prunable_compute_s[which]
        prunable, fixed = self.problem.prunable_bits[which], self.problem.fixed_bits[which]
        bits = fixed + prunable
        sending = bits > 0
        rate_bps = np.where(sending, rate_bps, 1.0)
        time_s = self._time_s[which]
        late = bits - rate_bps * (time_s - delay_s)
        with np.errstate(divide="ignore", invalid="ignore"):
            kept: FloatArray = (rate_bps * time_s - fixed) / (prunable + rate_bps * delay_s)
        # What is late by no more than rounding is not late: else a budget of 0 is never kept.
        whole = np.abs(late) <= _ROUNDING * (bits + rate_bps * self._deadline_s)
        return np.where(whole, 1.0, kept)

    def _log_price(self, bandwidth_hz: FloatArray) -> FloatArray:
        """ln(price) at which this bandwidth is the client's choice [client]."""
        problem = self.problem
        band = problem.bandwidth_hz
        rate, slope, _ = problem.links.derivatives(np.clip(bandwidth_hz, _LEAST_SHARE * band, band))
        pull = problem.prunable_bits + problem.prunable_compute_s * rate
        with np.errstate(divide="ignore", invalid="ignore"):
            log_price = 2.0 * np.log(pull) - np.log(slope) - self._log_stake
        return np.where(np.isfinite(self._log_stake) & (slope > 0), log_price, np.inf)


def _stationary(
    links: ConcaveLinks,
    log_gain: FloatArray,
    prunable_bits: FloatArray,
    prunable_compute_s: FloatArray,
    ends_hz: tuple[FloatArray, FloatArray],
    guess_hz: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Solve `gain r'(b) = (s1 + a1 r(b))^2` for b between the ends, and db / d ln(gain).

    Both sides are equal once, since r' falls and r grows. Newton's iteration on the logarithm of
    their ratio as a function of ln b, kept in a bracket of its own for each client; where the slope
    has a jump (a piecewise linear rate), bisection finds it.
    """
    low, high = np.log(ends_hz[0]), np.log(ends_hz[1])
    point = np.clip(np.log(guess_hz), low, high)
    sensitivity, arrived = np.zeros_like(low), np.zeros(len(low), dtype=bool)
    for _ in range(_MAX_PASSES):
        bandwidth = np.exp(point)
        rate, slope, curvature = links.derivatives(bandwidth)
        pull = prunable_bits + prunable_compute_s * rate
        # Where the rate is flat the logarithm is -inf: the choice lies to the left.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            value = log_gain + np.log(slope / (pull * pull))
            steepness = bandwidth * (2.0 * prunable_compute_s * slope / pull - curvature / slope)
            sensitivity = bandwidth / steepness
            step = value / steepness
        above = value > 0
        low, high = np.where(above, point, low), np.where(above, high, point)
        proposal = point + step
        arrived = np.abs(step) <= _STEP
        inside = arrived | ((proposal > low) & (proposal < high))
        point = np.where(inside, proposal, 0.5 * (low + high))
        if (arrived | (high - low <= _LEAST_WIDTH)).all():
            break
    # At a kink of the rate the choice does not move with the price.
    return np.exp(point), np.where(arrived, sensitivity, 0.0)
