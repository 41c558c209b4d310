"""`report.html` of a sweep, from its table."""

from collections.abc import Sequence

from airtune.files import write_text_atomic
from airtune.report.sweep_page import SweepMetric, SweepPoint, SweepView, render_sweep
from airtune.sweeping.axes import short_keys
from airtune.sweeping.table import PointMean, SweepResult, explained, means
from airtune.sweeping.words import distinct_metrics, headings, is_flat, sweep_sentences, table_rows


def sweep_view(result: SweepResult) -> SweepView:
    """The sweep as its page shows it; metrics that do not vary are sentences, not figures."""
    points = means(result.rows)
    metrics = [
        SweepMetric(metric.key, metric.label, metric.unit)
        for metric in distinct_metrics(result)
        if not is_flat(_means(points, metric.key), metric.unit)
    ]
    names = short_keys(result.keys)
    made = [
        SweepPoint([point.values.get(key) for key in result.keys], point.metrics)
        for point in points
    ]
    pages = [(row.folder, row.seed) if row.folder and row.metrics else None for row in result.rows]
    return SweepView(
        title=_title(result, len(points)),
        sentences=sweep_sentences(result),
        refused=explained(result.rows),
        keys=names,
        headings=headings(result),
        rows=table_rows(result),
        points=made,
        metrics=metrics,
        pages=[f"{page[0]}/report.html" for page in pages if page is not None],
    )


def _means(points: Sequence[PointMean], key: str) -> list[float]:
    return [mean for point in points if (mean := point.mean(key)) is not None]


def _title(result: SweepResult, points: int) -> str:
    of = result.shared.get("method") or result.shared.get("model")
    return f"airtune: sweep of {points} points" + (f", {of}" if of else "")


def write_page(result: SweepResult) -> None:
    """Write `report.html`."""
    write_text_atomic(result.folder / "report.html", render_sweep(sweep_view(result)))
