"""The figures of a paper: which there are, and the numbers of each, from the records.

Every figure is one entry of FIGURES: a function from what was read to a drawing, or to a sentence
that says why it is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, stdev

from airtune.report.alike import lopsided
from airtune.report.costs import ENERGY, TIME, UPLINK, Cost, spent
from airtune.report.figures.drawing import Axis, Curve, Curves, Drawing, Interval, Intervals, Stack
from airtune.report.labels import span
from airtune.report.sources import ArmSource, Source
from airtune.report.view import STAGES, Records
from airtune.report.waiting import IDLE, NO_CLIENT, stage_seconds

ROUNDS = Cost("round", "round", "", lambda record: 1.0)
LOSS = Axis("test loss", "nat", "test_loss")
LOG_FROM = 3.0
"""Losses that span a larger factor have a logarithmic axis: where they end gets the room."""
ORDER = (*STAGES.values(), IDLE, NO_CLIENT)


def _against(name: str, cost: Cost) -> Callable[[Source], Drawing | str]:
    """Loss over what was spent: means over the seeds of both, after each round that all have."""

    def made(source: Source) -> Drawing:
        curves = [_curve(arm, cost) for arm in source.arms if arm.runs]
        x, scale = Axis(cost.label, "", cost.key), 1.0
        if cost.unit:
            ends = [curve.x[-1] for curve in curves]
            far = lopsided(ends)
            shown = span(median(ends) if far else max(ends), cost.unit)
            x, scale = replace(_axis(cost, shown.unit), log=far), shown.scale
        measured = source.comparison
        level = None if measured is None else ("target", float(measured["target_loss"]))
        lowest = min(min(curve.low or curve.y) for curve in curves)
        log = lowest > 0 and max(max(curve.y) for curve in curves) > LOG_FROM * lowest
        scaled = tuple(replace(curve, x=[scale * value for value in curve.x]) for curve in curves)
        return Curves(name, x, replace(LOSS, log=log), scaled, level)

    return made


def _axis(cost: Cost, unit: str) -> Axis:
    return Axis(
        cost.label, unit, cost.key.removesuffix("_s").removesuffix("_j").removesuffix("_bytes")
    )


def _curve(arm: ArmSource, cost: Cost) -> Curve:
    """The mean path of an arm in unscaled units."""
    xs = [spent(records, cost) for _, records in arm.curves]
    ys = [[start, *(record.test_loss for record in records)] for start, records in arm.curves]
    first = 1 if any(start is None for start, _ in arm.curves) else 0
    rounds = range(first, min(map(len, xs)))
    at = [[loss for y in ys if (loss := y[k]) is not None] for k in rounds]
    means = [fmean(losses) for losses in at]
    spread = [stdev(losses) for losses in at] if len(xs) > 1 else []
    return Curve(
        name=arm.name,
        seeds=len(xs),
        rounds=list(rounds),
        x=[fmean(x[k] for x in xs) for k in rounds],
        y=means,
        low=[mean - sd for mean, sd in zip(means, spread, strict=False)],
        high=[mean + sd for mean, sd in zip(means, spread, strict=False)],
    )


def time_to_target(source: Source) -> Drawing | str:
    """Virtual time until the target loss; of the seeds that got there."""
    measured = source.comparison
    if measured is None:
        return "time-to-target is left out: only a finished comparison has a target loss."
    arms = [arm for arm in measured["arms"] if arm["finished"]]
    reached = [arm["to_target"][TIME.key]["mean"] for arm in arms if arm["to_target"]]
    if not reached:
        return "time-to-target is left out: no arm reached the target loss."
    shown = span(max(reached), TIME.unit)
    axis = replace(_axis(TIME, shown.unit), label="virtual time to the target")
    return Intervals("time-to-target", axis, tuple(_interval(arm, shown.scale) for arm in arms))


def _interval(arm: dict[str, object], scale: float) -> Interval:
    name, seeds = str(arm["arm"]), int(str(arm["reached"]))
    costs = arm["to_target"]
    if not isinstance(costs, dict):
        return Interval(name, 0, None, note="not reached")
    time_s = costs[TIME.key]
    mean, sd = scale * time_s["mean"], scale * time_s["sd"]
    note = f"{seeds} of {arm['finished']} seeds" if seeds != arm["finished"] else ""
    if seeds < 2:
        return Interval(name, seeds, mean, note=note)
    return Interval(name, seeds, mean, mean - sd, mean + sd, note)


def latency_by_stage(source: Source) -> Drawing:
    """Mean latency of a round by stage, as the mean over the clients that it waited for."""
    arms = [arm for arm in source.arms if arm.runs]
    spent_in = [[stage_seconds(r) for _, records in arm.curves for r in records] for arm in arms]
    parts = [
        (stage, tuple(fmean(s.get(stage, 0.0) for s in seconds) for seconds in spent_in))
        for stage in ORDER
    ]
    axis = Axis("mean latency of a round", "s", "latency")
    return _stack("latency-stages", "arm", axis, [arm.name for arm in arms], parts)


def latency_by_round(source: Source) -> Drawing | str:
    """Latency of every round by stage."""
    run = source.single
    if run is None:
        return "latency-rounds is left out: it is a figure of one run."
    return latency_of(run.records)


def latency_of(records: Records) -> Stack:
    """The stages of each round of one run."""
    seconds = [stage_seconds(record) for record in records]
    parts = [(stage, tuple(s.get(stage, 0.0) for s in seconds)) for stage in ORDER]
    rounds = [record.round for record in records]
    return _stack("latency-rounds", "round", Axis("latency", "s", "latency"), rounds, parts)


def _stack(
    name: str,
    category: str,
    axis: Axis,
    categories: Sequence[str | int],
    parts: Sequence[tuple[str, tuple[float, ...]]],
) -> Stack:
    """Parts without any time are left out."""
    return Stack(name, category, axis, tuple(categories), tuple(p for p in parts if any(p[1])))


@dataclass(frozen=True)
class Entry:
    """A figure by the name of its files."""

    name: str
    made: Callable[[Source], Drawing | str]


FIGURES = tuple(
    Entry(name, made)
    for name, made in (
        ("loss-time", _against("loss-time", TIME)),
        ("loss-rounds", _against("loss-rounds", ROUNDS)),
        ("loss-bytes", _against("loss-bytes", UPLINK)),
        ("loss-energy", _against("loss-energy", ENERGY)),
        ("time-to-target", time_to_target),
        ("latency-stages", latency_by_stage),
        ("latency-rounds", latency_by_round),
    )
)


def drawings(source: Source) -> tuple[list[Drawing], list[str]]:
    """Every figure that there is, and a sentence for each that is left out."""
    made = [entry.made(source) for entry in FIGURES]
    return [it for it in made if not isinstance(it, str)], [
        it for it in made if isinstance(it, str)
    ]
