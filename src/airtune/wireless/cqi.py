"""Discrete link rates of a 3GPP CQI table, the practical alternative to Shannon's formula."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from airtune.quantities import FloatArray, db_to_linear
from airtune.wireless.rate import Index, ShannonLinks


def _efficiency(order: list[int], code_rate: list[int]) -> FloatArray:
    """Bits per symbol of CQI 1..15: modulation order x code rate; the table has rates x 1024."""
    bits: FloatArray = np.array(order, dtype=np.float64) * np.array(code_rate) / 1024.0
    return bits


CQI_EFFICIENCY = _efficiency(
    [2, 2, 2, 2, 2, 2, 4, 4, 4, 6, 6, 6, 6, 6, 6],
    [78, 120, 193, 308, 449, 602, 378, 490, 616, 466, 567, 666, 772, 873, 948],
)
"""Bits per symbol of CQI 1..15 up to 64QAM, 3GPP TS 38.214 Table 5.2.2.1-2."""
CQI_EFFICIENCY_256QAM = _efficiency(
    [2, 2, 2, 4, 4, 4, 6, 6, 6, 6, 6, 8, 8, 8, 8],
    [78, 193, 449, 378, 490, 616, 466, 567, 666, 772, 873, 711, 797, 885, 948],
)
"""Bits per symbol of CQI 1..15 up to 256QAM, 3GPP TS 38.214 Table 5.2.2.1-3."""
CQI_SNR_DB = -7.0 + 27.0 / 14.0 * np.arange(15)
"""SNR from which CQI 1..15 of the first table is used: a straight line in dB from -7 to 20.

3GPP leaves the thresholds to the receiver (block error rate at most 10 %). This line is the AWGN
table of the GRASS-RaPlaT planner (Jozef Stefan Institute, r.MaxPower, LTE_CINRTABLE); it lies 0.2
to 0.7 dB above the 10 % points of Sionna 2.2's simulated NR LDPC tables (PDSCH table 1, code
blocks of 500 bits), which a test recomputes for CQI 4..15.
"""
CQI_SNR_256QAM_DB = -7.0 + 27.0 / 14.0 * np.array([0, 2, 4, *range(6, 18)])
"""The same of the second table, on the same line.

Its CQI 1..11 are CQI 1, 3, 5 and 7..14 of the first, by modulation and code rate, and have their
thresholds; CQI 12..15 continue the line, to 25.8 dB. There it lies 0.4 to 0.9 dB above the 10 %
points of Sionna's PDSCH table 2, which ends before that of CQI 15.
"""


@dataclass(frozen=True)
class CqiTable:
    """What each CQI is worth [cqi]: bits per symbol, and `width`, the reciprocal of the SNR from
    which it is used. Up to cn0 times this the band may grow before the CQI is lost."""

    efficiency: FloatArray
    width: FloatArray

    @property
    def peak(self) -> FloatArray:
        """The rate of each tooth at its end, per cn0 [cqi]."""
        return self.efficiency * self.width


CQI_TABLES = {
    "64qam": CqiTable(CQI_EFFICIENCY, 1.0 / db_to_linear(CQI_SNR_DB)),
    "256qam": CqiTable(CQI_EFFICIENCY_256QAM, 1.0 / db_to_linear(CQI_SNR_256QAM_DB)),
}


@dataclass(frozen=True)
class CqiLinks:
    """FDMA links with the discrete rates of a 3GPP CQI table.

    Spread over the whole bandwidth the rate is `b eta[CQI(cn0 / (margin b))]`, a sawtooth: more
    bandwidth dilutes the power, the SNR falls below a threshold and the rate drops, to 0 below
    CQI 1. A client may leave bandwidth unused, so the rate counted is the best with at most b:

        r(b) = max_k  eta_k min(b, cn0 / (margin snr_k))

    which does not fall with b but is not concave: a bound on a joint optimum refers to
    `envelope()`. `bandwidth_for` returns the smallest bandwidth that reaches a rate.

    Source: TS 38.214 clause 5.2.2.1; efficiencies `CQI_EFFICIENCY`, thresholds `CQI_SNR_DB`, and
    those of 256QAM. Left out: overhead, retransmissions (HARQ), frequency selectivity.

    Args and errors: as `ShannonLinks`; `table` is one of `CQI_TABLES`.
    """

    cn0_hz: FloatArray
    margin: ArrayLike = 1.0
    table: str = "64qam"
    _effective_hz: FloatArray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        links = ShannonLinks(self.cn0_hz, self.margin)
        object.__setattr__(self, "cn0_hz", links.cn0_hz)
        object.__setattr__(self, "_effective_hz", links.effective_hz)

    def __len__(self) -> int:
        return len(self.cn0_hz)

    def rate(self, bandwidth_hz: FloatArray) -> FloatArray:
        """The best tooth within the bandwidth."""
        return self._best_tooth(bandwidth_hz)[0]

    def bandwidth_for(self, rate_bps: FloatArray) -> FloatArray:
        """`R / eta` at the highest CQI whose peak rate `cn0 eta / snr` reaches R; inf if none."""
        rate = np.asarray(rate_bps, dtype=np.float64)
        # The peaks do not fall strictly with the CQI: count against the best of it and higher.
        table = CQI_TABLES[self.table]
        best_above = np.maximum.accumulate(table.peak[::-1])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            level = np.searchsorted(best_above, rate / self._effective_hz, side="left")
            eta = np.append(table.efficiency[::-1], 0.0)[level]
            return np.where(rate > 0, rate / eta, 0.0)

    def slope(self, bandwidth_hz: FloatArray) -> FloatArray:
        """`eta_k` while the best tooth rises, 0 where the bandwidth is more than it can use."""
        return self._best_tooth(bandwidth_hz)[1]

    def limit_bps(self) -> FloatArray:
        """The highest tooth of the saw."""
        return self._effective_hz * float(np.max(CQI_TABLES[self.table].peak))

    def select(self, index: Index) -> "CqiLinks":
        """The links of some clients only."""
        return CqiLinks(self._effective_hz[index], table=self.table)

    def scaled(self, factor: FloatArray) -> "CqiLinks":
        """The links with their signal-to-noise ratio times a factor [client]."""
        return CqiLinks(self._effective_hz * factor, table=self.table)

    def envelope(self) -> "EnvelopeLinks":
        """The least concave function above the rate, for certificates."""
        table = CQI_TABLES[self.table]
        width, height = _concave_hull(table.width[::-1], table.peak[::-1])
        return EnvelopeLinks(self._effective_hz, width, height)

    def _best_tooth(self, bandwidth_hz: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rate and slope; a loop over 15 teeth, not a [client, tooth] array, for many clients."""
        b = np.asarray(bandwidth_hz, dtype=np.float64)
        shape = np.broadcast_shapes(b.shape, self._effective_hz.shape)
        rate, slope = np.zeros(shape), np.zeros(shape)
        table = CQI_TABLES[self.table]
        for eta, width in zip(table.efficiency.tolist(), table.width.tolist(), strict=True):
            tooth = eta * np.minimum(b, self._effective_hz * width)
            better = tooth > rate
            rate = np.where(better, tooth, rate)
            slope = np.where(better, np.where(b < self._effective_hz * width, eta, 0.0), slope)
        return rate, slope


@dataclass(frozen=True)
class EnvelopeLinks:
    """Links whose rate is concave and piecewise linear: `r(b) = cn0 f(b / cn0)`, f flat at the end.

    Args:
        cn0_hz: carrier-to-noise-density ratio [client], in hertz.
        width: abscissae of f, ascending from 0 [knot], Hz per Hz.
        height: values of f, ascending from 0, concave [knot], bit/s per Hz.
    """

    cn0_hz: FloatArray
    width: FloatArray
    height: FloatArray

    def __len__(self) -> int:
        return len(self.cn0_hz)

    def rate(self, bandwidth_hz: FloatArray) -> FloatArray:
        """`cn0 f(b / cn0)`."""
        return self.cn0_hz * np.interp(self._per_cn0(bandwidth_hz), self.width, self.height)

    def bandwidth_for(self, rate_bps: FloatArray) -> FloatArray:
        """`cn0 f^-1(R / cn0)`; inf above the last knot."""
        level = self._per_cn0(rate_bps)
        reached = self.cn0_hz * np.interp(level, self.height, self.width)
        return np.where(level <= self.height[-1], reached, np.inf)

    def slope(self, bandwidth_hz: FloatArray) -> FloatArray:
        """The slope of the piece to the right of b; 0 behind the last knot."""
        pieces = np.append(np.diff(self.height) / np.diff(self.width), 0.0)
        piece = np.searchsorted(self.width, self._per_cn0(bandwidth_hz), side="right") - 1
        return np.where(self.cn0_hz > 0, pieces[piece], 0.0)

    def derivatives(self, bandwidth_hz: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Rate, slope, and 0 between the knots."""
        slope = self.slope(bandwidth_hz)
        return self.rate(bandwidth_hz), slope, np.zeros_like(slope)

    def limit_bps(self) -> FloatArray:
        """`cn0 f(inf)`."""
        return self.cn0_hz * float(self.height[-1])

    def select(self, index: Index) -> "EnvelopeLinks":
        """The links of some clients only."""
        return EnvelopeLinks(self.cn0_hz[index], self.width, self.height)

    def _per_cn0(self, values: FloatArray) -> FloatArray:
        """values / cn0 with 0 / 0 = 0."""
        values = np.asarray(values, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where(values > 0, values / self.cn0_hz, 0.0)


def _concave_hull(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Corners of the least concave increasing function above (0, 0) and the points; x ascends."""
    hull = [(0.0, 0.0)]
    for point in zip(x.tolist(), y.tolist(), strict=True):
        if point[1] <= hull[-1][1]:
            continue
        while len(hull) > 1 and _turns_left(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    corners = np.array(hull)
    return corners[:, 0], corners[:, 1]


def _turns_left(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) >= (b[1] - a[1]) * (c[0] - a[0])
