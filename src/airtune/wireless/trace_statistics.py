"""What a measured trace is like: its distribution and how long it stays as it is."""

from typing import Any

import numpy as np

from airtune.quantities import FloatArray
from airtune.wireless.trace import Trace

CDF_SHARES = tuple(step / 20 for step in range(21))
_MOST_SAMPLES = 1_000_000


def quantile_bps(trace: Trace, share: float) -> float:
    """The throughput that is not exceeded for this share of the trace's time, bit/s.

    The inverse of its distribution, `min {x: P(rate <= x) >= share}`: always one of the samples.
    """
    order = np.argsort(trace.rate_bps, kind="stable")
    reached = np.cumsum(trace.share[order])
    # The shares add up to 1 but for rounding.
    index = int(np.searchsorted(reached, share - 1e-12, side="left"))
    return float(trace.rate_bps[order][min(index, len(order) - 1)])


def trace_summary(trace: Trace) -> dict[str, Any]:
    """A trace in numbers, weighted by time where it has a clock.

    `idle_share` is the share of time without any throughput. `autocorrelation` is that of
    neighbouring samples and `coherence` the least lag at which it falls below 1/e, in seconds
    (`coherence_s`) or in rows (`coherence_rows`); null for a trace that never varies, or never
    falls so far. With a clock both are those of its means over equal steps, the median step.
    """
    timed = trace.edge_s is not None
    step = float(np.median(np.diff(trace.edge_s))) if trace.edge_s is not None else 1.0
    correlation = autocorrelation(_even(trace, step))
    below = np.flatnonzero(correlation < np.exp(-1.0))
    coherence = float(below[0]) * step if len(below) else None
    return {
        "name": trace.name,
        "samples": len(trace),
        "duration_s": trace.duration if timed else None,
        "mean_bps": float(trace.rate_bps @ trace.share),
        "median_bps": quantile_bps(trace, 0.5),
        "p10_bps": quantile_bps(trace, 0.1),
        "p90_bps": quantile_bps(trace, 0.9),
        "least_bps": float(trace.rate_bps.min()),
        "most_bps": float(trace.rate_bps.max()),
        "idle_share": float(trace.share[trace.rate_bps == 0].sum()),
        "autocorrelation": float(correlation[1]) if len(correlation) > 1 else None,
        "coherence_s" if timed else "coherence_rows": coherence,
        "cdf": [[share, quantile_bps(trace, share)] for share in CDF_SHARES],
    }


def _even(trace: Trace, step_s: float) -> FloatArray:
    """Samples at equal steps: those of the trace, or means over its steps."""
    if trace.edge_s is None:
        return trace.rate_bps
    return trace.means(min(max(round(trace.duration / step_s), 1), _MOST_SAMPLES))


def autocorrelation(values: FloatArray) -> FloatArray:
    """`sum_i (x_i - m)(x_{i+k} - m) / sum_i (x_i - m)^2` for the lags k = 0 .. n/2 [lag].

    Nothing for values that do not vary.
    """
    centred = values - values.mean()
    power = float(centred @ centred)
    if len(values) < 2 or power <= 1e-24 * float(values @ values):
        return np.zeros(0)
    # Twice as long with zeros behind, so that the end does not meet the beginning.
    spectrum = np.fft.rfft(centred, 2 * len(values))
    products = np.fft.irfft(np.abs(spectrum) ** 2, 2 * len(values))
    lags: FloatArray = products[: len(values) // 2 + 1] / power
    return lags
