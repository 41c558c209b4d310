"""A sweep in texts: its table for the terminal and the page, and what is alike at all points."""

from collections.abc import Callable, Mapping, Sequence

from airtune.methods.file_kinds import PROBLEM
from airtune.quantities import format_duration, format_quantity
from airtune.report.labels import quantity
from airtune.sweeping.axes import short_keys, show
from airtune.sweeping.table import Metric, PointMean, SweepResult, means

LOSS, STATE = "final_test_loss", "state"
TRAINED = (
    Metric(LOSS, "final test loss", "nat"),
    Metric("virtual_time_s", "virtual time", "s"),
    Metric("uplink_bytes", "bytes sent up", "B"),
    Metric("energy_j", "clients' energy", "J"),
)
"""What the table and the page show of training runs; the files have more."""
_HEADINGS = {
    LOSS: "final loss [nat]",
    "virtual_time_s": "time",
    "uplink_bytes": "sent up",
    "energy_j": "energy",
}
_UNITS: Mapping[str, Callable[[float], str]] = {
    "s": format_duration,
    "nat": lambda value: f"{value:.4f} nat",
    "": lambda value: f"{value:.4g}",
    "1": lambda value: f"{value:.4g}",
}


def metrics_of(result: SweepResult) -> list[Metric]:
    """The numbers that are worth a column: of runs always the same, of plans the planner's own."""
    if result.kind != PROBLEM:
        return list(TRAINED)
    found: dict[str, Metric] = {}
    for point in means(result.rows):
        for key in point.metrics:
            what = quantity(key)
            found.setdefault(key, Metric(key, what.label, what.unit))
    return list(found.values())


def shown(value: float, unit: str) -> str:
    """A number with its unit."""
    words = _UNITS.get(unit)
    return words(value) if words else format_quantity(value, unit)


def headings(result: SweepResult) -> list[str]:
    """The swept keys, then the numbers and the state."""
    named = [_HEADINGS.get(metric.key, metric.label) for metric in metrics_of(result)]
    seeds = ["seeds"] if _several_seeds(result) else []
    return [*short_keys(result.keys), *seeds, *named, STATE]


def _several_seeds(result: SweepResult) -> bool:
    return len({row.seed for row in result.rows if row.seed is not None}) > 1


def table_rows(result: SweepResult) -> list[list[str]]:
    """A row a point; means over the seeds, the loss with its standard deviation."""
    metrics, several = metrics_of(result), _several_seeds(result)
    rows = []
    for point in means(result.rows):
        cells = [show(point.values[key]) if key in point.values else "-" for key in result.keys]
        cells += [str(point.finished)] if several else []
        cells += [_number(point, metric) for metric in metrics]
        rows.append([*cells, point.state])
    return rows


def _number(point: PointMean, metric: Metric) -> str:
    mean = point.mean(metric.key)
    if mean is None:
        return "-"
    text = shown(mean, metric.unit)
    if metric.unit == "nat":
        # The heading has it.
        text = text.removesuffix(" nat")
    values = point.metrics[metric.key]
    if metric.key == LOSS and len(values) > 1:
        variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
        text += f" ± {variance**0.5:.4f}"
    return text


FLAT = 1e-6
"""Relative spread below which a metric is called the same at all points."""
NOTHING = 1e-9
"""A number without a unit below it is 0 up to rounding (the gap of a certified plan)."""


def is_flat(values: Sequence[float], unit: str = "") -> bool:
    """Whether a figure of these would be a straight line."""
    largest = max(map(abs, values), default=0.0)
    if unit in ("", "1") and largest <= NOTHING:
        return True
    return not values or max(values) - min(values) <= FLAT * largest


def distinct_metrics(result: SweepResult) -> list[Metric]:
    """The metrics without those that repeat another one (a lower bound that is met)."""
    points, made = means(result.rows), []
    seen: list[tuple[str, list[float]]] = []
    for metric in metrics_of(result):
        values = [mean for point in points if (mean := point.mean(metric.key)) is not None]
        if not any(metric.unit == unit and _alike(values, other) for unit, other in seen):
            seen.append((metric.unit, values))
            made.append(metric)
    return made


def _alike(values: Sequence[float], other: Sequence[float]) -> bool:
    return len(values) == len(other) and all(
        abs(a - b) <= FLAT * max(abs(a), abs(b)) for a, b in zip(values, other, strict=True)
    )


def sweep_sentences(result: SweepResult) -> list[str]:
    """Where each metric is least and greatest, and what is the same everywhere."""
    points = [point for point in means(result.rows) if point.finished]
    told = []
    for metric in distinct_metrics(result):
        known = [(mean, point) for point in points if (mean := point.mean(metric.key)) is not None]
        values = [mean for mean, _ in known]
        if len(values) < 2:
            continue
        if is_flat(values, metric.unit):
            words = f"{shown(max(values), metric.unit)} at every point"
        else:
            ends = (values.index(min(values)), values.index(max(values)))
            words = " to ".join(
                f"{shown(values[place], metric.unit)} ({_place(known[place][1])})" for place in ends
            )
        told.append(f"{_capital(metric.label)}: {words}.")
    return told


def _place(point: PointMean) -> str:
    names = short_keys(list(point.values))
    pairs = zip(names, point.values.values(), strict=True)
    return ", ".join(f"{key}={show(value)}" for key, value in pairs)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
