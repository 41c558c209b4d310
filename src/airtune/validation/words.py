"""The result of a validation in words and tables, the same in the terminal and on the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from airtune.validation.rows import OVERHEAD, Row

Table = tuple[list[str], list[list[str]]]
"""Headings and rows."""


def share(value: float | None) -> str:
    """A share as per cent; a dash for none."""
    return "–" if value is None else f"{value:.1%}"


def first_upper(words: str) -> str:
    """The words with a capital letter first, the others as they are."""
    return words[:1].upper() + words[1:]


def summary_table(result: Mapping[str, Any]) -> Table:
    """A row an arm."""
    headings = [
        "arm",
        "transfers off (median)",
        "largest",
        "computing off (median)",
        "round off (median)",
        "without overhead",
        "other overhead (median)",
        "counters",
    ]
    rows = []
    for arm in result["arms"]:
        found = arm["summary"]
        ratio = found["counters"]["frames"]["ratio"]
        rows.append(
            [
                arm["arm"],
                share(found["transfers"]["median"]),
                share(found["transfers"]["largest"]),
                share(found["computing"]["median"]),
                share(found["round"]["median"]),
                share(found["transfers_and_computing"]["median"]),
                f"{found['rest_s']:.3f} s",
                "–" if ratio is None else f"{ratio:.4f}",
            ]
        )
    return headings, rows


def stage_table(rows: Sequence[Row]) -> Table:
    """A row a stage and client, means over the rounds; overhead as rows of its own."""
    headings = ["stage", "client", "kB", "predicted", "measured", "ratio", "furthest off"]
    order: dict[tuple[str, int | None], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.client is None, row.client or 0)):
        order.setdefault((row.stage, row.client), []).append(row)
    return headings, [_stage(own) for own in order.values()]


def _stage(rows: Sequence[Row]) -> list[str]:
    first = rows[0]
    measured_s = sum(row.measured_s for row in rows) / len(rows)
    name = f"overhead: {first.stage}" if first.kind == OVERHEAD else first.stage
    client = "–" if first.client is None else str(first.client)
    sizes = [row.size for row in rows if row.size is not None]
    size = f"{sum(sizes) / len(sizes) / 1e3:.0f}" if sizes else "–"
    if first.predicted_s is None:
        return [name, client, size, "–", f"{measured_s:.3f} s", "–", "–"]
    predicted_s = sum(row.predicted_s or 0.0 for row in rows) / len(rows)
    ratio = measured_s / predicted_s if predicted_s else None
    furthest = max((abs(row.ratio - 1.0) for row in rows if row.ratio is not None), default=None)
    return [
        name,
        client,
        size,
        f"{predicted_s:.3f} s",
        f"{measured_s:.3f} s",
        "–" if ratio is None else f"{ratio:.4f}",
        share(furthest),
    ]


def sentences(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the tables has to know, then the gains, then what is not covered."""
    first = result["arms"][0]
    loads = [load for arm in result["arms"] for load in arm["load_average"]]
    said = [
        f"{first_upper(result['computing_words'])}.",
        f"{first['clients']} clients, {first['rounds']} rounds on {result['cores']} cores; load "
        f"average {min(loads):g} to {max(loads):g}.",
        f"“Off” is |measured / predicted - 1|. Transfers: stages of "
        f"{result['least_transfer_bytes'] // 1000} kB and more. Round: with all overhead; without: "
        "transfers and computing alone. Other overhead: beside evaluation, aggregation and "
        "checkpoint. Counters: bytes of the interfaces x 1448/1514 over those of the messages, "
        f"for rounds of {result['least_round_bytes'] // 1000} kB and more.",
    ]
    for arm in result["arms"]:
        late = arm["summary"]["late"]
        if late:
            said.append(
                f"{arm['arm']}: computing took longer than modelled {late} times, so its emulation "
                "failed there: give slower devices, or fewer rows a step."
            )
    said += [
        f"{first['arm']} takes {gain['predicted']:.1%} less time than {gain['over']} as "
        f"predicted, {gain['measured']:.1%} as measured "
        f"({gain['measured_without_overhead']:.1%} without overhead)."
        for gain in result["gains"]
    ]
    return [*said, result["not_covered"]]
