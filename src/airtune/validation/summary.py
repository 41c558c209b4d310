"""What the rows of a validation come to: medians, counters, and the gain over another arm."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from airtune.deploy.links import FRAME_BYTES, SEGMENT_BYTES
from airtune.validation.rows import (
    COMPUTING,
    DISPATCH,
    DOWN,
    OVERHEAD,
    ROUND,
    TRANSFER,
    UP,
    Measured,
    Row,
)

LEAST_TRANSFER = 100_000
"""Bytes of a stage from which on transfers are counted in the summary: below, the bucket's 4096
bytes and a millisecond of the machine weigh more than the link."""
LEAST_ROUND = 450_000
"""The same of a round's bytes in one direction, for the interfaces' counters."""
REST = ("planning", "encoding", DISPATCH)
"""Overhead beside evaluation, aggregation and checkpoint."""


def off(ratios: Iterable[float | None]) -> dict[str, float | int | None]:
    """How far ratios are from 1: the median and the largest of `|ratio - 1|`, and their number."""
    found = [abs(ratio - 1.0) for ratio in ratios if ratio is not None]
    return {
        "count": len(found),
        "median": median(found) if found else None,
        "largest": max(found, default=None),
    }


def summarise(rows: Sequence[Row], measured: Sequence[Measured]) -> dict[str, Any]:
    """Of an arm, as plain values."""
    large = [r for r in rows if r.kind == TRANSFER and (r.size or 0) >= LEAST_TRANSFER]
    rounds = [row for row in rows if row.kind == ROUND]
    whole = [row for row in rounds if row.stage == "round with overhead"]
    path = [row for row in rounds if row.stage != "round with overhead"]
    return {
        "transfers": off(row.ratio for row in large),
        "transfers_by_link_formula": off(
            row.measured_s / row.link_s if row.link_s else None for row in large
        ),
        "small_transfers": sum(row.kind == TRANSFER for row in rows) - len(large),
        "computing": off(row.ratio for row in rows if row.kind == COMPUTING),
        "round": off(row.ratio for row in whole),
        "transfers_and_computing": off(row.ratio for row in path),
        "predicted_s": sum(row.predicted_s or 0.0 for row in whole),
        "measured_s": sum(row.measured_s for row in whole),
        "path_s": sum(row.measured_s for row in path),
        "overhead_s": _overheads(rows),
        "rest_s": _rest(rows),
        "counters": counted(measured),
        "late": sum(entry.late for entry in measured),
    }


def _overheads(rows: Sequence[Row]) -> dict[str, float]:
    """Median over rounds of each kind of overhead [s]."""
    by_stage: dict[str, list[float]] = {}
    for row in rows:
        if row.kind == OVERHEAD:
            by_stage.setdefault(row.stage, []).append(row.measured_s)
    return {stage: median(seconds) for stage, seconds in by_stage.items()}


def _rest(rows: Sequence[Row]) -> float:
    """Median over rounds of the overhead beside evaluation, aggregation and checkpoint [s]."""
    by_round: dict[int, float] = {}
    for row in rows:
        if row.kind == OVERHEAD and row.stage in REST:
            by_round[row.round] = by_round.get(row.round, 0.0) + row.measured_s
    return median(by_round.values()) if by_round else 0.0


def counted(measured: Sequence[Measured]) -> dict[str, Any]:
    """Bytes of the interfaces over those of the messages, for rounds of 450 kB and more.

    `frames` counts every frame as full, bytes x 1448/1514, acknowledgements of the other direction
    included; `payload` takes the 66 bytes of heads off each frame, and so counts TCP's payload.
    """
    frames, payload = [], []
    for entry in measured:
        for stages, name in ((UP, "up"), (DOWN, "down")):
            sent = sum(m.size for m in entry.messages if m.stage in stages)
            if sent < LEAST_ROUND:
                continue
            size = sum(count[f"{name}_bytes"] for count in entry.counters.values())
            packets = sum(count[f"{name}_packets"] for count in entry.counters.values())
            frames.append(size * SEGMENT_BYTES / FRAME_BYTES / sent)
            payload.append((size - (FRAME_BYTES - SEGMENT_BYTES) * packets) / sent)
    return {
        "frames": {**off(frames), "ratio": median(frames) if frames else None},
        "payload": {**off(payload), "ratio": median(payload) if payload else None},
    }


def gain(arm: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """How much less time an arm takes than another: `1 - T / T_other`, predicted and measured."""
    return {
        name: 1.0 - arm[key] / other[key]
        for name, key in (
            ("predicted", "predicted_s"),
            ("measured", "measured_s"),
            ("measured_without_overhead", "path_s"),
        )
    }
