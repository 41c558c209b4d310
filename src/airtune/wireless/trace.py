"""Series of measured throughput, sample by sample or on a clock of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from airtune.errors import InputError
from airtune.quantities import FloatArray


@dataclass(frozen=True)
class Trace:
    """A series of measured throughput.

    Attributes:
        name: file and column, for messages.
        rate_bps: samples in order [sample], bit/s; 0 where the link was down.
        edge_s: when each sample begins, from 0, and when the last one ends [sample + 1], s; None
            where a sample is a round's.
    """

    name: str
    rate_bps: FloatArray
    edge_s: FloatArray | None = None
    _bits: FloatArray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        bits = self.rate_bps * (1.0 if self.edge_s is None else np.diff(self.edge_s))
        object.__setattr__(self, "_bits", np.append(0.0, np.cumsum(bits)))

    def __len__(self) -> int:
        return len(self.rate_bps)

    @property
    def duration(self) -> float:
        """Seconds, or rounds without a clock, after which the trace starts over."""
        return float(len(self)) if self.edge_s is None else float(self.edge_s[-1])

    @property
    def share(self) -> FloatArray:
        """The share of the duration that each sample stands for [sample]."""
        if self.edge_s is None:
            return np.full(len(self), 1.0 / len(self))
        shares: FloatArray = np.diff(self.edge_s) / self.edge_s[-1]
        return shares

    def mean_bps(self, begin_s: float, end_s: float) -> float:
        """Mean throughput over a stretch of time, `integral of rate dt / (end - begin)`  [bit/s].

        Each sample holds from its time to that of the next; behind its end the trace starts over.
        A stretch in which every sample is 0 has exactly 0.

        Args:
            begin_s, end_s: on the trace's clock, 0 <= begin < end.
        """
        length = self.duration
        first, last = int(begin_s // length), int(end_s // length)
        begin, end = begin_s - first * length, end_s - last * length
        if first == last:
            bits = self._until(end) - self._until(begin)
        else:
            # By parts, so that no difference of large sums stands for a stretch without a bit.
            rest = float(self._bits[-1]) - self._until(begin)
            bits = rest + (last - first - 1) * float(self._bits[-1]) + self._until(end)
        return bits / (end_s - begin_s)

    def means(self, count: int) -> FloatArray:
        """Mean throughput of `count` equal stretches of the whole trace [stretch], bit/s."""
        assert self.edge_s is not None
        edges = np.linspace(0.0, self.duration, count + 1)
        means: FloatArray = np.diff(np.interp(edges, self.edge_s, self._bits)) / edges[1]
        return means

    def _until(self, time_s: float) -> float:
        """Bits since the beginning, within one pass."""
        assert self.edge_s is not None
        time_s = min(max(time_s, 0.0), float(self.edge_s[-1]))
        index = min(int(np.searchsorted(self.edge_s, time_s, side="right")), len(self)) - 1
        since_s = time_s - float(self.edge_s[index])
        return float(self._bits[index] + self.rate_bps[index] * since_s)


@dataclass(frozen=True)
class Gaps:
    """What holds where two rows are far apart: the keys `trace_gaps` and `trace_gap_s`."""

    rule: str = "refuse"
    longest_s: float = 10.0


@dataclass(frozen=True)
class Sample:
    """A row of a file: its line, its time and its throughput."""

    line: int
    time_s: float
    rate_bps: float


def on_a_clock(name: str, file: str, samples: Sequence[Sample], gaps: Gaps) -> Trace:
    """A trace whose samples hold from their time to that of the next one.

    Rows of the same time count as one with their mean. The last sample holds for the median time
    between two. Where the next row is more than `gaps.longest_s` away, the rule says what holds.

    Raises InputError, with file and line: times that go back, a gap that is refused, or rows that
    all have one time.
    """
    for before, after in pairwise(samples):
        if after.time_s < before.time_s:
            raise InputError(
                "cell.trace",
                f"{file}, line {after.line}, {before.time_s - after.time_s:g} s before the row "
                "above it",
                "rows in the order of their time",
                "sort the rows, or choose those of one measurement with cell.trace_where",
            )
    times, lines, rates = _merged(samples)
    if len(times) < 2:
        raise InputError(
            "cell.trace", f"{file}, whose rows all have one time,", "rows of at least two times"
        )
    if gaps.rule == "refuse":
        _refuse_gap(file, times, lines, gaps.longest_s)
    last_s = times[-1] + float(np.median(np.diff(times)))
    if gaps.rule == "idle":
        times, rates = _with_idle(times, rates, gaps.longest_s)
    return Trace(name, rates, np.append(times, last_s) - times[0])


def _merged(samples: Sequence[Sample]) -> tuple[FloatArray, NDArray[np.int64], FloatArray]:
    """Times without repetition, the first line of each, and the mean rate of its rows."""
    every = np.array([sample.time_s for sample in samples])
    times, first, count = np.unique(every, return_index=True, return_counts=True)
    total = np.add.reduceat([sample.rate_bps for sample in samples], first)
    lines = np.array([samples[index].line for index in first], dtype=np.int64)
    return times, lines, total / count


def _refuse_gap(file: str, times: FloatArray, lines: NDArray[np.int64], longest_s: float) -> None:
    steps = np.diff(times)
    wide = np.flatnonzero(steps > longest_s)
    if len(wide):
        at = int(wide[0])
        raise InputError(
            "cell.trace",
            f"{file}, line {lines[at + 1]}, {steps[at]:g} s after the row before it",
            f"rows at most {longest_s:g} s apart",
            "say with cell.trace_gaps what holds in between: hold or idle; a slower measurement "
            "needs a longer cell.trace_gap_s",
        )


def _with_idle(
    times: FloatArray, rates: FloatArray, longest_s: float
) -> tuple[FloatArray, FloatArray]:
    """An additional sample of 0 from `longest_s` after each row that is followed by a gap."""
    wide = np.flatnonzero(np.diff(times) > longest_s)
    return (
        np.insert(times, wide + 1, times[wide] + longest_s),
        np.insert(rates, wide + 1, 0.0),
    )
