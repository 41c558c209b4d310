"""A whole validation: its arms one after another, the numbers, and the folder that is left."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from airtune import __version__
from airtune.config.experiment import ExperimentConfig
from airtune.deploy.hub import Say
from airtune.deploy.links import HEADS
from airtune.errors import AirtuneError, InputError
from airtune.experiment.run import Run
from airtune.files import make_folder, write_json_atomic, write_text_atomic
from airtune.report.validation_page import ValidationView, render_validation
from airtune.validation.options import ComputingMode
from airtune.validation.rows import TRANSFER, Measured, Row, round_rows
from airtune.validation.session import Place, run_arm
from airtune.validation.summary import LEAST_ROUND, LEAST_TRANSFER, gain, summarise
from airtune.validation.words import first_upper, sentences, stage_table, summary_table

RESULT, ROWS, PAGE = "validation.json", "rows.csv", "report.html"
NOT_COVERED = (
    "Not covered: the delay and the loss of a real radio, its scheduler and its retransmissions. "
    "The round-trip time of these links is about 0, so that TCP's slow start does not show."
)


@dataclass(frozen=True)
class Arm:
    """One experiment of a validation."""

    name: str
    config: ExperimentConfig


def validate(
    arms: Sequence[Arm], folder: Path, mode: ComputingMode, parts: Sequence[Path], say: Say
) -> dict[str, Any]:
    """Run every arm on shaped links; what `validation.json` has. The first is compared with the
    others. Raises InputError for a folder that holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("--out", str(folder), "a new or empty folder", "choose another one")
    make_folder("--out", folder)
    found: list[dict[str, Any]] = []
    tables: dict[str, list[Row]] = {}
    for arm in arms:
        say(f"{arm.name}: {mode.words}.")
        place, before = Place(folder / arm.name.replace(":", "-").replace("/", "-")), _load()
        run_arm(arm.config, place, mode, parts, say)
        rows, summary = read_arm(arm, place)
        tables[arm.name] = rows
        found.append(
            {
                "arm": arm.name,
                "method": arm.config.method,
                "folder": place.path.name,
                "rounds": len({row.round for row in rows}),
                "clients": arm.config.clients.count,
                "load_average": [before, _load()],
                "summary": summary,
                "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
            }
        )
    result = {
        "airtune": __version__,
        "computing": asdict(mode),
        "computing_words": mode.words,
        "emulated": mode.kind == "emulated",
        "cores": os.cpu_count(),
        "least_transfer_bytes": LEAST_TRANSFER,
        "least_round_bytes": LEAST_ROUND,
        "arms": found,
        "gains": [
            {"over": other["arm"], **gain(found[0]["summary"], other["summary"])}
            for other in found[1:]
        ],
        "not_covered": NOT_COVERED,
    }
    write_result(result, tables, folder)
    return result


def _load() -> float:
    return round(os.getloadavg()[0], 2)


def read_arm(arm: Arm, place: Place) -> tuple[list[Row], dict[str, Any]]:
    """The rows of an arm and what they come to, from its folder."""
    records = Run.open(place.run).records
    timings = _lines(place.run / "timing.jsonl")
    lines = place.measured.read_text().splitlines()
    trained = [record for record in records if record.clients]
    if len(lines) != len(trained):
        raise AirtuneError(
            f"{place.measured} has {len(lines)} rounds where {len(trained)} were made: run the "
            "validation again in a new folder."
        )
    share = 0.0 if arm.config.cell.overhead_share else HEADS
    of_round = {timing["round"]: timing for timing in timings}
    measured = [
        Measured.read(line, of_round[record.round])
        for line, record in zip(lines, trained, strict=True)
    ]
    rows = [
        row
        for record, entry in zip(trained, measured, strict=True)
        for row in round_rows(record, entry, share)
    ]
    return rows, summarise(rows, measured)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_result(
    result: Mapping[str, Any], tables: Mapping[str, Sequence[Row]], folder: Path
) -> None:
    """The numbers as JSON, the rows as CSV, and the page."""
    write_json_atomic(folder / RESULT, result)
    stream = io.StringIO()
    names = [field.name for field in fields(Row)]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["arm", *names, "ratio"])
    for arm, rows in tables.items():
        for row in rows:
            writer.writerow([arm, *(getattr(row, name) for name in names), row.ratio])
    write_text_atomic(folder / ROWS, stream.getvalue())
    first = result["arms"][0]
    note = f"{first_upper(result['computing_words'])}." if result["emulated"] else ""
    view = ValidationView(
        title=f"airtune validate: {first['arm']}",
        note=note,
        sentences=[sentence for sentence in sentences(result) if sentence != note],
        summary=summary_table(result),
        stages=[(arm, *stage_table(rows)) for arm, rows in tables.items()],
        transfers=[
            (arm, row.stage, row.client, row.round, row.predicted_s or 0.0, row.measured_s)
            for arm, rows in tables.items()
            for row in rows
            if row.kind == TRANSFER and (row.size or 0) >= LEAST_TRANSFER
        ],
        rounds=[(arm, _by_round(rows)) for arm, rows in tables.items()],
    )
    write_text_atomic(folder / PAGE, render_validation(view))


def _by_round(rows: Sequence[Row]) -> dict[int, dict[str, float]]:
    """Predicted latency, measured path and overhead of each round [s]."""
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        entry = found.setdefault(row.round, {})
        if row.stage == "transfers and computing":
            entry |= {"predicted": row.predicted_s or 0.0, "path": row.measured_s}
        elif row.kind == "overhead":
            entry["overhead"] = entry.get("overhead", 0.0) + row.measured_s
    return found


def rows_of(arm: Mapping[str, Any]) -> list[Row]:
    """The rows of an arm of `validation.json`."""
    return [Row(**{field.name: row[field.name] for field in fields(Row)}) for row in arm["rows"]]
