"""Bandwidth for fixed payloads: the split of a band that ends the round soonest, and equal shares.

    min over b of  max_n (fixed_delay_n + payload_n / r_n(b_n))   s.t.  sum_n b_n <= B, b_n >= 0

At deadline tau client n needs `r_n^-1(payload_n / (tau - fixed_delay_n))` at least; the sum of the
needs falls with tau, and the smallest tau at which it fits the band is the global optimum. For
sawtooth rates (a CQI table) this holds as well, with the smallest bandwidth that reaches a rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from airtune.allocation.solve import (
    OPTIMALITY,
    Bracket,
    Check,
    Evaluation,
    Solution,
    SolveTimer,
    Status,
    checked,
    smallest_deadline,
)
from airtune.errors import InputError
from airtune.quantities import FloatArray, format_duration
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import Links


@dataclass(frozen=True)
class BandwidthPlan:
    """Bandwidth per client [client], Hz, and the round's latency, s."""

    bandwidth_hz: FloatArray
    latency_s: float


@dataclass(frozen=True)
class Uploads:
    """What shares a band: links, payloads and the delays before each upload.

    Args:
        links: rates [client].
        payload_bits: [client], >= 0.
        fixed_delay_s: time before the upload starts [client], >= 0.
        bandwidth_hz: the whole band, > 0.
        names: of the clients, for messages; "client 0", ... without.

    Raises:
        InputError: a value outside these ranges, named by client.
    """

    links: Links
    payload_bits: FloatArray
    fixed_delay_s: FloatArray
    bandwidth_hz: float
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        count = len(self.links)
        require_band(self.bandwidth_hz)
        for name in ("payload_bits", "fixed_delay_s"):
            values = np.broadcast_to(np.asarray(getattr(self, name), dtype=np.float64), (count,))
            require_each(name, values, np.isfinite(values) & (values >= 0), self.names)
            object.__setattr__(self, name, values)

    def name(self, client: int) -> str:
        """What messages call a client."""
        return client_name(self.names, client)

    def finish_s(self, bandwidth_hz: FloatArray) -> FloatArray:
        """When each client's upload ends [client]; inf where it never does."""
        return self.fixed_delay_s + airtime_s(self.payload_bits, self.links.rate(bandwidth_hz))


def client_name(names: Sequence[str], client: int) -> str:
    """A client's name, or its number where clients have no names."""
    return f"client {names[client]}" if len(names) else f"client {client}"


def require_band(bandwidth_hz: float) -> None:
    """Raise InputError unless the band is positive and finite."""
    if not 0 < bandwidth_hz < np.inf:
        raise InputError("bandwidth_hz", bandwidth_hz, "a positive number")


def require_each(
    name: str, values: FloatArray, good: ArrayLike, names: Sequence[str] = (), allowed: str = ""
) -> None:
    """Raise InputError for the first client whose value is not good."""
    bad = np.flatnonzero(~np.asarray(good))
    if len(bad):
        first = int(bad[0])
        where = f"{name} of {client_name(names, first)}"
        raise InputError(where, float(values[first]), allowed or "a finite number >= 0")


def airtime_s(bits: FloatArray, rate_bps: FloatArray) -> FloatArray:
    """bits / rate, 0 for no bits and inf for bits without a rate."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(bits > 0, bits / rate_bps, 0.0)


def minmax_bandwidth(
    links: Links,
    payload_bits: ArrayLike,
    fixed_delay_s: ArrayLike,
    bandwidth_hz: float,
    names: Sequence[str] = (),
    start_s: float | None = None,
) -> Solution[BandwidthPlan]:
    """The split of the band that ends the round soonest: the global optimum, with its proof.

    At the returned `lower_bound` the clients' least bandwidths together exceed the band (or one
    client would need more than its link can ever carry). Clients without a payload get none.

    Arguments and errors as `Uploads`; any links whose rate does not fall with bandwidth.
    `start_s` is a guess of the latency, such as the last round's.
    """
    uploads = Uploads(links, _array(payload_bits), _array(fixed_delay_s), bandwidth_hz, names)
    watch = SolveTimer()
    alone = uploads.finish_s(np.full(len(links), bandwidth_hz))
    if not np.isfinite(alone).all():
        return no_signal("minmax", uploads.name(int(np.argmax(alone))))
    bandwidth, bracket = minmax_shares(uploads, start_s)
    return _solution("minmax", uploads, bandwidth, watch.seconds, bracket)


def minmax_shares(uploads: Uploads, start_s: float | None = None) -> tuple[FloatArray, Bracket]:
    """The bandwidths of `minmax_bandwidth` [client], and the bracket of its latency.

    Every client with a payload must have a signal.
    """
    # No client can have more than the whole band: each alone in it is a lower bound.
    alone = uploads.finish_s(np.full(len(uploads.links), uploads.bandwidth_hz))
    together = uploads.finish_s(_equal_shares(uploads))
    need = _Need(uploads)
    bracket = smallest_deadline(
        need, uploads.bandwidth_hz, float(alone.max()), float(together.max()), start_s
    )
    return fill_band(need.bandwidth_for(bracket.high), uploads.bandwidth_hz), bracket


def fill_band(share_hz: FloatArray, bandwidth_hz: float) -> FloatArray:
    """The whole band in these proportions, because what a deadline needs may leave some of it
    unused.

    A little over the band, by rounding, is taken back as well. A share of 0 stays 0.
    """
    used = float(share_hz.sum())
    return share_hz * (bandwidth_hz / used) if used > 0 else share_hz


def equal_bandwidth(
    links: Links,
    payload_bits: ArrayLike,
    fixed_delay_s: ArrayLike,
    bandwidth_hz: float,
    names: Sequence[str] = (),
) -> Solution[BandwidthPlan]:
    """The same bandwidth for every client, `b = B / N`; arguments and errors as `Uploads`.

    The lower bound is that of `minmax_bandwidth`.
    """
    uploads = Uploads(links, _array(payload_bits), _array(fixed_delay_s), bandwidth_hz, names)
    watch = SolveTimer()
    bandwidth = _equal_shares(uploads)
    finish = uploads.finish_s(bandwidth)
    if not np.isfinite(finish).all():
        return no_signal("equal", uploads.name(int(np.argmax(finish))))
    seconds = watch.seconds
    best = minmax_bandwidth(links, payload_bits, fixed_delay_s, bandwidth_hz, names)
    assert best.lower_bound is not None
    bound = Bracket(best.lower_bound, best.lower_bound, 0)
    return _solution("equal", uploads, bandwidth, seconds, bound)


def check_bandwidth(uploads: Uploads, plan: BandwidthPlan) -> Check:
    """Recompute from the rates alone that the plan fits the band and keeps its latency."""
    share = plan.bandwidth_hz
    negative = float(np.max(-share, initial=0.0))
    late = uploads.finish_s(share) - plan.latency_s
    return Check(
        {
            "bandwidth": float(np.sum(share)) / uploads.bandwidth_hz - 1.0,
            "bandwidth of each client": negative / uploads.bandwidth_hz,
            "latency": float(np.max(late)) / plan.latency_s if np.max(late) > 0 else 0.0,
        }
    )


def no_signal(solver: str, client: str) -> Solution[BandwidthPlan]:
    """The answer where a client can never send what it must."""
    message = f"{client} has a payload but no signal: its link carries nothing at any bandwidth."
    return Solution(Status.INFEASIBLE, message, solver)


def bandwidth_within(
    links: Links, rate_bps: FloatArray, whole_band_bps: FloatArray, bandwidth_hz: float
) -> FloatArray:
    """The least bandwidths [client] for rates that the whole band reaches, but for rounding.

    Near its limit a rate hardly grows with the bandwidth: there rounding alone could require many
    times the band, or for an infinite one. So the last 1e-15 of the rate is not required.
    """
    rate = np.minimum(rate_bps, whole_band_bps * (1.0 - 1e-15))
    return np.minimum(links.bandwidth_for(rate), bandwidth_hz)


class _Need:
    """The least bandwidth that lets every client finish by a deadline.

    The deadline is one that every client keeps with the whole band.
    """

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        band = np.full(len(uploads.links), uploads.bandwidth_hz)
        self._whole_band_bps = uploads.links.rate(band)

    def __call__(self, deadline_s: float) -> Evaluation:
        """Sum over the clients [Hz] and its derivative [Hz/s], `-sum rate / time / r'(b)`."""
        uploads = self._uploads
        rate = self._rate(deadline_s)
        bandwidth = self._bandwidth(rate)
        busy = rate > 0
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            time_s = deadline_s - uploads.fixed_delay_s
            fall = np.where(busy, rate / time_s / uploads.links.slope(bandwidth), 0.0)
        return float(bandwidth.sum()), -float(fall.sum())

    def bandwidth_for(self, deadline_s: float) -> FloatArray:
        """Per client [client]."""
        return self._bandwidth(self._rate(deadline_s))

    def _bandwidth(self, rate_bps: FloatArray) -> FloatArray:
        uploads = self._uploads
        return bandwidth_within(uploads.links, rate_bps, self._whole_band_bps, uploads.bandwidth_hz)

    def _rate(self, deadline_s: float) -> FloatArray:
        uploads = self._uploads
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rate = uploads.payload_bits / (deadline_s - uploads.fixed_delay_s)
        return np.where(uploads.payload_bits > 0, rate, 0.0)


def _array(values: ArrayLike) -> FloatArray:
    return np.asarray(values, dtype=np.float64)


def _equal_shares(uploads: Uploads) -> FloatArray:
    return np.full(len(uploads.links), uploads.bandwidth_hz / len(uploads.links))


def _solution(
    solver: str, uploads: Uploads, bandwidth_hz: FloatArray, seconds: float, bracket: Bracket
) -> Solution[BandwidthPlan]:
    finish = uploads.finish_s(bandwidth_hz)
    plan = BandwidthPlan(bandwidth_hz, float(finish.max()))
    bound = min(bracket.low, plan.latency_s)
    optimal = plan.latency_s - bound <= OPTIMALITY * plan.latency_s
    solution = Solution(
        status=Status.OPTIMAL if optimal else Status.FEASIBLE,
        message=_message(uploads, finish, optimal),
        solver=solver,
        plan=plan,
        objective=plan.latency_s,
        lower_bound=bound,
        iterations=bracket.iterations,
        solve_time_s=seconds,
        trace=bracket.trace,
    )
    return checked(solution, lambda found: check_bandwidth(uploads, found))


def _message(uploads: Uploads, finish_s: FloatArray, optimal: bool) -> str:
    """One sentence: who ends last, and what would have to grow to change that."""
    last = int(np.argmax(finish_s))
    latency = float(finish_s[last])
    together = int(np.count_nonzero(finish_s >= latency * (1.0 - 1e-9)))
    who = uploads.name(last)
    if together > 1:
        who = f"{together} of {len(finish_s)} clients end together"
    else:
        who = f"{who} ends last"
    sends = uploads.payload_bits[last] > 0
    limit = "the band is the limit" if sends else "its delay is the limit, not the band"
    claim = "Optimal" if optimal else "Feasible"
    return f"{claim}: {who}, after {format_duration(latency)}; {limit}."


_MAX_STEPS = 100
_TOLERANCE = 1e-12
_BLOCK = 16_384
# Many passes over few numbers at a time stay in the processor's cache: three times as fast.


def concave(links: Links) -> Links:
    """The links, or their concave envelope where the rate is a sawtooth."""
    return links.envelope() if isinstance(links, CqiLinks) else links


def needed_bandwidth(
    links: Links, bits: FloatArray, time_s: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Bandwidth that sends the bits in the time, and how fast it falls with the time.

    `b = r^-1(bits / time)` and `-db/dtime = (bits / time^2) / r'(b)`; both 0 for no bits (in any
    time) and inf where no bandwidth suffices. All arrays [..., client]; Hz and Hz/s.
    """
    if bits.size <= _BLOCK:
        return _needed(links, bits, time_s)
    bandwidth, fall = np.empty_like(bits), np.empty_like(bits)
    width = max(_BLOCK * len(links) // bits.size, 1)
    for begin in range(0, len(links), width):
        part = slice(begin, begin + width)
        answer = _needed(links.select(part), bits[..., part], time_s[..., part])
        bandwidth[..., part], fall[..., part] = answer
    return bandwidth, fall


def _needed(links: Links, bits: FloatArray, time_s: FloatArray) -> tuple[FloatArray, FloatArray]:
    busy = bits > 0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rate = np.where(busy, bits / time_s, 0.0)
        bandwidth = links.bandwidth_for(rate)
        fall = rate / (time_s * links.slope(bandwidth))
    if (busy & (bandwidth > 0) & (bandwidth < np.inf)).all():
        return bandwidth, fall
    lost = ~np.isfinite(bandwidth)
    bandwidth = np.where(lost, np.inf, bandwidth)
    return bandwidth, np.where(lost, np.inf, np.where(busy & (bandwidth > 0), fall, 0.0))


def common_headroom(
    links: Links,
    bits: FloatArray,
    slack_s: FloatArray,
    bandwidth_hz: float,
    guess_s: float = 0.0,
) -> FloatArray:
    """Least h >= 0 with `sum_n r_n^-1(bits_n / (h + slack_n)) <= bandwidth`  [s], [...].

    The common deadline is h later than the start of the client that starts to send last, client n
    starts `slack_n` earlier; h carries no rounding of the absolute time. Newton's iteration on the
    reciprocal of the band's use, which is a straight line for equal starts and fixed efficiencies,
    inside a bracket.

    Args:
        links: rates [client], each with a signal where it has bits to send; a sawtooth (CQI
            table) takes the smallest bandwidth that reaches a rate.
        bits: payloads [..., client]; leading axes are candidate plans.
        slack_s: [client], >= 0, at least one of them 0.
        bandwidth_hz: the whole band, > 0.
        guess_s: where the search starts.
    """
    bits = np.asarray(bits, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        fastest = concave(links).rate(np.full(len(links), bandwidth_hz))
        alone = np.where(bits > 0, bits / fastest, 0.0)
    low = np.maximum(alone - slack_s, 0.0).max(axis=-1)
    high: FloatArray = np.full_like(low, np.inf)
    # One client alone fills its lower bound exactly; a guess does not help.
    headroom: FloatArray = np.maximum(low, guess_s) if len(links) > 1 else low
    for _ in range(_MAX_STEPS):
        use, fall = needed_bandwidth(links, bits, headroom[..., None] + slack_s)
        used, falling = use.sum(axis=-1), fall.sum(axis=-1)
        late = used > bandwidth_hz * (1.0 + _TOLERANCE)
        low, high = np.where(late, headroom, low), np.where(late, high, headroom)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = used / bandwidth_hz * (used - bandwidth_hz) / falling
        proposal = headroom + step
        inside = (proposal > low) & (proposal < high)
        if not inside.all():
            proposal = np.where(inside, proposal, _between(low, high))
        # The first point is already the answer where it leaves band unused: then one client
        # fills the time alone, or no client has anything to send.
        settled = (high <= low) | (np.abs(used / bandwidth_hz - 1.0) <= _TOLERANCE)
        settled |= proposal == headroom
        if settled.all():
            break
        headroom = np.where(settled, headroom, proposal)
    return high


def _between(low: FloatArray, high: FloatArray) -> FloatArray:
    """The next deadline to try in a bracket: its geometric middle, or double if it is open."""
    with np.errstate(invalid="ignore"):
        middle = np.where(low > 0, np.sqrt(low) * np.sqrt(high), 0.5 * high)
    return np.where(np.isinf(high), np.maximum(2.0 * low, np.finfo(np.float64).tiny), middle)
