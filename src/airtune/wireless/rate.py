"""What bandwidth buys: bit rate of FDMA links, and the exact inverse, for many clients at once.

All arrays are float64 with the single axis [client]. A link that carries nothing has rate 0 and
needs infinite bandwidth for any positive rate; nothing here is NaN.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airtune.errors import InputError
from airtune.quantities import FloatArray

LN2 = float(np.log(2.0))
_HUGE = float(np.finfo(np.float64).max)

Index = NDArray[np.intp] | NDArray[np.bool_] | slice


class Links(Protocol):
    """The links of several clients, one entry a client; methods are vectorised over [client]."""

    def __len__(self) -> int: ...

    def rate(self, bandwidth_hz: FloatArray) -> FloatArray:
        """Bit rate at this bandwidth [bit/s]; 0 at 0, `limit_bps` or less at infinity."""
        ...

    def bandwidth_for(self, rate_bps: FloatArray) -> FloatArray:
        """Least bandwidth that reaches the rate [Hz]; 0 at rate 0, inf where none reaches it."""
        ...

    def slope(self, bandwidth_hz: FloatArray) -> FloatArray:
        """Derivative of `rate` with respect to bandwidth [bit/s/Hz]."""
        ...

    def limit_bps(self) -> FloatArray:
        """Supremum of `rate` over all bandwidths [bit/s]; inf for a fixed efficiency."""
        ...

    def select(self, index: Index) -> Self:
        """The links of some clients only."""
        ...


class ConcaveLinks(Links, Protocol):
    """Links whose rate is concave in the bandwidth, which joint planning needs."""

    def derivatives(self, bandwidth_hz: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Rate, slope, and the slope's derivative (<= 0) at b > 0, in one pass."""
        ...


def exponent_for(theta: FloatArray) -> FloatArray:
    """Solve `u / (e^u - 1) = theta` for u >= 0, elementwise, for theta in (0, 1).

    This is the inverse of Shannon's formula: with `theta = R ln2 / cn0` and signal-to-noise ratio
    `x`, `ln(1 + x) / x = theta` becomes the equation above by `u = ln(1 + x)`, and the bandwidth
    is `R ln2 / u`, which neither overflows nor cancels. Equivalent to
    `u = -theta - W_-1(-theta e^-theta)` (lower Lambert branch), which cancels as theta -> 1.

    In logarithms, `g(u) = ln((e^u - 1) / u) = -ln theta = L`: g is increasing and convex with
    slope in [1/2, 1], so Newton's iteration converges from any start; `L + ln(1 + L)` is within
    4 %, and three steps reach rounding. Near theta = 1 the series of the solution in L is used.
    """
    log_inverse = -np.log(theta)
    # Below 1e-3 the residual is all rounding and the series takes over.
    target = np.maximum(log_inverse, 1e-3)
    u = target + np.log1p(target)
    for _ in range(3):
        rest = -np.expm1(-u)
        residual = u + np.log(rest / u) - target
        u = u - residual / (1.0 / rest - 1.0 / u)
    if target.min() > 1e-3:
        return u
    small = log_inverse
    series = small * (2.0 + small * (-1.0 / 3.0 + small * (1.0 / 9.0 - small * (19.0 / 540.0))))
    return np.where(small <= 1e-3, series, u)


@dataclass(frozen=True)
class ShannonLinks:
    """FDMA links at constant transmit power: `r(b) = b log2(1 + cn0 / (margin b))`  [bit/s].

    Source: Shannon's capacity of the additive white Gaussian noise channel; the power does not
    grow with the bandwidth, so r is increasing and strictly concave with the finite limit
    `cn0 / (margin ln 2)`. Left out: overhead of pilots and headers, retransmissions.

    Args:
        cn0_hz: carrier-to-noise-density ratio p g / N0 [client], in hertz, >= 0.
        margin: implementation margin as a linear power ratio >= 1, for all clients or [client].

    Raises:
        InputError: a negative or not finite cn0, a margin below 1; the client is numbered.
    """

    cn0_hz: FloatArray
    margin: ArrayLike = 1.0
    _effective_hz: FloatArray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        cn0 = np.atleast_1d(np.asarray(self.cn0_hz, dtype=np.float64))
        margin = np.asarray(self.margin, dtype=np.float64)
        _refuse("cn0_hz", cn0, np.isfinite(cn0) & (cn0 >= 0), "a finite number >= 0")
        _refuse("margin", margin, np.isfinite(margin) & (margin >= 1), "a power ratio >= 1")
        object.__setattr__(self, "cn0_hz", cn0)
        object.__setattr__(self, "_effective_hz", cn0 / margin)

    def __len__(self) -> int:
        return len(self.cn0_hz)

    @property
    def effective_hz(self) -> FloatArray:
        """cn0 / margin [client], Hz."""
        return self._effective_hz

    def rate(self, bandwidth_hz: FloatArray) -> FloatArray:
        """`b log2(1 + cn0/b)`; the limit `cn0 / ln 2` once cn0/b underflows."""
        b = np.asarray(bandwidth_hz, dtype=np.float64)
        snr = self._snr(b)
        # Where c/b underflows, b ln(1 + c/b) is c itself (also for b = inf, where the product is
        # inf 0).
        flat = snr == 0
        finite = np.where(flat, 0.0, b) * np.log1p(snr)
        nats = np.where(flat & (b > 0), self._effective_hz, finite) if flat.any() else finite
        return nats / LN2

    def bandwidth_for(self, rate_bps: FloatArray) -> FloatArray:
        """`R ln2 / u` with u from `exponent_for`; inf at and above the limit."""
        nats = np.asarray(rate_bps, dtype=np.float64) * LN2
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            theta = nats / self._effective_hz
            inside = (theta > 0) & (theta < 1)
            if inside.all():
                return nats / exponent_for(theta)
            bandwidth = nats / exponent_for(np.where(inside, theta, 0.5))
        # A positive rate whose theta underflows to 0 needs less than the smallest float.
        return np.where(inside, bandwidth, np.where((nats > 0) & ~(theta == 0), np.inf, 0.0))

    def slope(self, bandwidth_hz: FloatArray) -> FloatArray:
        """`log2(1 + x) - x / ((1 + x) ln 2)` with x = cn0/b; inf at b = 0 if there is a signal."""
        b = np.asarray(bandwidth_hz, dtype=np.float64)
        x = self._snr(b)
        inside: FloatArray = _slope_nats(x, np.log1p(x), x / (1.0 + x)) / LN2
        if (b > 0).all():
            return inside
        return np.where(b > 0, inside, np.where(self._effective_hz > 0, np.inf, 0.0))

    def derivatives(self, bandwidth_hz: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """`r`, `r'`, and `r'' = -(x / (1 + x))^2 / (b ln 2)` at b > 0."""
        x = self._effective_hz / bandwidth_hz
        nats = np.log1p(x)
        share = x / (1.0 + x)
        rate = bandwidth_hz * nats / LN2
        curvature = -share * share / (bandwidth_hz * LN2)
        return rate, _slope_nats(x, nats, share) / LN2, curvature

    def limit_bps(self) -> FloatArray:
        """`cn0 / ln 2`."""
        return self._effective_hz / LN2

    def select(self, index: Index) -> "ShannonLinks":
        """The links of some clients only."""
        # These numbers have been checked; planners select in their innermost loops.
        chosen = object.__new__(ShannonLinks)
        for name in ("cn0_hz", "_effective_hz"):
            object.__setattr__(chosen, name, self._effective_hz[index])
        object.__setattr__(chosen, "margin", 1.0)
        return chosen

    def _snr(self, bandwidth_hz: FloatArray) -> FloatArray:
        """cn0 / b, kept finite: at ratios above 1e308 the rate is 0 to any meaning anyway."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = np.minimum(self._effective_hz / bandwidth_hz, _HUGE)
        positive = bandwidth_hz > 0
        return ratio if positive.all() else np.where(positive, ratio, 0.0)


def _slope_nats(x: FloatArray, nats: FloatArray, share: FloatArray) -> FloatArray:
    """`ln(1 + x) - x / (1 + x)`, by its series where the difference would cancel."""
    closed = nats - share
    small = x < 1e-4
    if not small.any():
        return closed
    return np.where(small, x * x * (0.5 - x * (2.0 / 3.0 - x * 0.75)), closed)


@dataclass(frozen=True)
class FixedEfficiencyLinks:
    """Links of constant spectral efficiency: `r(b) = eta b`, as measured throughput traces give.

    Args:
        spectral_efficiency_bps_hz: eta [client], bit/s/Hz, >= 0.

    Raises:
        InputError: a negative or not finite efficiency; the client is numbered.
    """

    spectral_efficiency_bps_hz: FloatArray

    def __post_init__(self) -> None:
        eta = np.atleast_1d(np.asarray(self.spectral_efficiency_bps_hz, dtype=np.float64))
        _refuse(
            "spectral_efficiency_bps_hz", eta, np.isfinite(eta) & (eta >= 0), "a finite number >= 0"
        )
        object.__setattr__(self, "spectral_efficiency_bps_hz", eta)

    def __len__(self) -> int:
        return len(self.spectral_efficiency_bps_hz)

    def rate(self, bandwidth_hz: FloatArray) -> FloatArray:
        """`eta b`; a link without efficiency carries nothing at any bandwidth."""
        eta = self.spectral_efficiency_bps_hz
        with np.errstate(invalid="ignore"):
            return np.where(eta > 0, eta * np.asarray(bandwidth_hz, dtype=np.float64), 0.0)

    def bandwidth_for(self, rate_bps: FloatArray) -> FloatArray:
        """`R / eta`; inf where eta is 0 and R is not."""
        rate = np.asarray(rate_bps, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where(rate > 0, rate / self.spectral_efficiency_bps_hz, 0.0)

    def slope(self, bandwidth_hz: FloatArray) -> FloatArray:
        """`eta`, at every bandwidth."""
        shape = np.broadcast_shapes(np.shape(bandwidth_hz), self.spectral_efficiency_bps_hz.shape)
        return np.broadcast_to(self.spectral_efficiency_bps_hz, shape).copy()

    def derivatives(self, bandwidth_hz: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """`eta b`, `eta` and 0."""
        slope = self.slope(bandwidth_hz)
        return slope * bandwidth_hz, slope, np.zeros_like(slope)

    def limit_bps(self) -> FloatArray:
        """inf for a link that carries anything at all."""
        return np.where(self.spectral_efficiency_bps_hz > 0, np.inf, 0.0)

    def select(self, index: Index) -> "FixedEfficiencyLinks":
        """The links of some clients only."""
        return FixedEfficiencyLinks(self.spectral_efficiency_bps_hz[index])


@dataclass(frozen=True)
class MixedLinks:
    """Some clients with Shannon's rate, the others with a fixed spectral efficiency.

    Args:
        shannon: links of all clients by Shannon's formula; entries of fixed ones are not used.
        fixed: links of all clients with fixed efficiency; entries of the others are not used.
        is_fixed: which clients have a fixed efficiency, bool [client].
    """

    shannon: ShannonLinks
    fixed: FixedEfficiencyLinks
    is_fixed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.is_fixed)

    def rate(self, bandwidth_hz: FloatArray) -> FloatArray:
        """Each client by its own model."""
        return self._each(self.fixed.rate(bandwidth_hz), self.shannon.rate(bandwidth_hz))

    def bandwidth_for(self, rate_bps: FloatArray) -> FloatArray:
        """Each client by its own model."""
        return self._each(self.fixed.bandwidth_for(rate_bps), self.shannon.bandwidth_for(rate_bps))

    def slope(self, bandwidth_hz: FloatArray) -> FloatArray:
        """Each client by its own model."""
        return self._each(self.fixed.slope(bandwidth_hz), self.shannon.slope(bandwidth_hz))

    def derivatives(self, bandwidth_hz: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Each client by its own model."""
        pairs = zip(
            self.fixed.derivatives(bandwidth_hz),
            self.shannon.derivatives(bandwidth_hz),
            strict=True,
        )
        rate, slope, curvature = (self._each(fixed, shannon) for fixed, shannon in pairs)
        return rate, slope, curvature

    def limit_bps(self) -> FloatArray:
        """Each client by its own model."""
        return self._each(self.fixed.limit_bps(), self.shannon.limit_bps())

    def select(self, index: Index) -> "MixedLinks":
        """The links of some clients only."""
        return MixedLinks(
            self.shannon.select(index), self.fixed.select(index), self.is_fixed[index]
        )

    def _each(self, fixed: FloatArray, shannon: FloatArray) -> FloatArray:
        return np.where(self.is_fixed, fixed, shannon)


def mixed_links(
    cn0_hz: ArrayLike, spectral_efficiency_bps_hz: ArrayLike, margin: ArrayLike = 1.0
) -> ShannonLinks | FixedEfficiencyLinks | MixedLinks:
    """Links from two columns with NaN where absent; every client has exactly one of the two.

    Raises InputError where a client has both or neither. The plainest class that fits is returned.
    """
    cn0 = np.atleast_1d(np.asarray(cn0_hz, dtype=np.float64))
    eta = np.atleast_1d(np.asarray(spectral_efficiency_bps_hz, dtype=np.float64))
    is_fixed = ~np.isnan(eta)
    _refuse(
        "cn0_hz", cn0, np.isnan(cn0) == is_fixed, "given where no efficiency is, and only there"
    )
    if not is_fixed.any():
        return ShannonLinks(cn0, margin)
    if is_fixed.all():
        return FixedEfficiencyLinks(eta)
    return MixedLinks(
        ShannonLinks(np.where(is_fixed, 0.0, cn0), margin),
        FixedEfficiencyLinks(np.where(is_fixed, eta, 0.0)),
        is_fixed,
    )


def _refuse(name: str, values: FloatArray, good: Any, allowed: str) -> None:
    """Raise InputError for the first entry that is not good."""
    bad = np.flatnonzero(~np.asarray(good))
    if len(bad):
        where = f"{name}[{bad[0]}]" if np.ndim(values) else name
        raise InputError(where, float(np.ravel(values)[bad[0]]), allowed)
