"""From drawn rounds to the numbers of one method: spreads, the whole job, and what binds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from airtune.advising.answer import (
    HIGH,
    LOW,
    QUANTITIES,
    Binding,
    Job,
    Memory,
    Spread,
)
from airtune.advising.draws import DrawnRound
from airtune.cost.device import DeviceProfile
from airtune.seeds import generator

Name = TypeVar("Name", int, str)
STRETCH = 10
"""Rounds of a stretch in which a job is drawn: clients move on slowly, so neighbours are alike."""
LEAST_STRETCHES = 5
"""Of few draws the stretches are shorter, so that there are several to choose among."""
JOBS = 500
"""Jobs that are drawn."""


def round_spreads(drawn: Sequence[DrawnRound]) -> dict[str, Spread]:
    """Every quantity of a round over the draws."""
    return {key: Spread.of([getattr(one, key) for one in drawn]) for key in QUANTITIES}


def job_of(
    drawn: Sequence[DrawnRound],
    rounds: int,
    source: str,
    deadline_s: float | None,
    seed: int,
) -> Job:
    """The whole job of so many rounds."""
    totals = {key: _total([getattr(one, key) for one in drawn], rounds, seed) for key in QUANTITIES}
    if deadline_s is None:
        return Job(rounds, source, totals)
    mean_s = float(np.mean([one.latency_s for one in drawn]))
    fit = int(deadline_s // mean_s)
    return Job(rounds, source, totals, totals["latency_s"].mean <= deadline_s, fit)


def _total(values: Sequence[float], rounds: int, seed: int) -> Spread:
    """The sum of `rounds` values: its mean, and percentiles of sums drawn by moving blocks.

    A job is made of stretches of at most `STRETCH` consecutive draws that begin anywhere, the last
    one cut to its length (Kuensch 1989; the series is closed to a circle, so that every draw counts
    alike).
    """
    series = np.asarray(values, dtype=np.float64)
    length = min(STRETCH, max(1, len(series) // LEAST_STRETCHES))
    whole, rest = divmod(rounds, length)
    circle = np.concatenate([[0.0], np.cumsum(np.concatenate([series, series]))])
    begins = np.arange(len(series))
    stretches = circle[begins + length] - circle[begins]
    last = circle[begins + rest] - circle[begins]
    draws = generator(seed, "jobs of advise").integers(len(series), size=(JOBS, whole + 1))
    totals = stretches[draws[:, :-1]].sum(axis=1) + last[draws[:, -1]]
    low, high = np.percentile(totals, (LOW, HIGH))
    return Spread(rounds * float(series.mean()), float(low), float(high))


def tightest(drawn: Sequence[DrawnRound], devices: Sequence[DeviceProfile]) -> Memory | None:
    """The client with the least room in any draw; None where no client takes part."""
    uses = [one.memory for one in drawn if one.memory is not None]
    if not uses:
        return None
    use = max(uses, key=lambda each: each.share)
    return Memory(use.client, devices[use.client].name, use.needed_bytes, use.usable_bytes)


def binding(drawn: Sequence[DrawnRound], devices: Sequence[DeviceProfile]) -> Binding:
    """What the rounds wait for."""
    total_s = sum(one.latency_s for one in drawn)
    stages: Counter[str] = Counter()
    for one in drawn:
        stages.update(one.stages_s)
    waited = [one for one in drawn if one.straggler is not None]
    clients = Counter(one.straggler for one in waited if one.straggler is not None)
    kinds = Counter(devices[one.straggler or 0].name for one in waited)
    behind = Counter(one.stage for one in waited)
    return Binding(
        stages=_shares(stages, total_s),
        stragglers=_shares(clients, len(drawn)),
        devices=_shares(kinds, len(drawn)),
        furthest_behind=_shares(behind, len(drawn)),
    )


def _shares(counts: Mapping[Name, float], whole: float) -> dict[Name, float]:
    """Shares of a whole, the largest first, of equal ones the first name."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))
    return {name: count / whole for name, count in ordered}
