"""What runs cost in all: the table of several runs that need not aim at one target."""

from collections.abc import Sequence
from statistics import fmean, stdev

from airtune.quantities import format_duration, format_quantity
from airtune.report.costs import COSTS, spent
from airtune.report.sources import ArmSource

TOTAL_HEADINGS = (
    "run",
    "method",
    "seeds",
    "rounds",
    "final loss [nat]",
    "time",
    "sent up",
    "sent down",
    "energy",
    "FLOPs",
)
ABOUT_TOTALS = (
    "From time to the right: what all rounds of a run took; energy and FLOPs are the clients'. "
    "Runs of different lengths do not compare there; the figures show loss against cost. Means "
    "over the seeds; ±, one standard deviation."
)


def total_rows(arms: Sequence[ArmSource]) -> list[list[str]]:
    """A row an arm, under TOTAL_HEADINGS."""
    return [_row(arm) for arm in arms]


def _row(arm: ArmSource) -> list[str]:
    losses = [run.records[-1].test_loss for run in arm.runs]
    spread = f" ± {stdev(losses):.4f}" if len(losses) > 1 else ""
    totals = {cost.key: fmean(spent(run.records, cost)[-1] for run in arm.runs) for cost in COSTS}
    return [
        arm.name,
        ", ".join(dict.fromkeys(run.method for run in arm.runs)),
        str(len(arm.runs)),
        f"{fmean(len(run.records) for run in arm.runs):.3g}",
        f"{fmean(losses):.4f}{spread}",
        format_duration(totals["virtual_time_s"]),
        format_quantity(totals["uplink_bytes"], "B"),
        format_quantity(totals["downlink_bytes"], "B"),
        format_quantity(totals["energy_j"], "J"),
        format_quantity(totals["flops"], "FLOP"),
    ]
