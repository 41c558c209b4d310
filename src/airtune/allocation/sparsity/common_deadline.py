"""The earliest common deadline of clients that share a band, for many candidate plans at once."""

import numpy as np

from airtune.quantities import FloatArray
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import Links

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
