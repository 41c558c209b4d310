"""`airtune run --profile`: the real seconds of a round by stage."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

from airtune.cli.text_table import page_width, text_table
from airtune.federated.records.stopwatch import STAGES


def stage_seconds(folder: Path) -> dict[str, float]:
    """Mean real seconds of a round by stage, from `timing.jsonl`; what no stage claims is `other`.

    The first round of several is left out, for it also starts worker processes.
    """
    rounds = [entry for line in _lines(folder / "timing.jsonl") for entry in _entries(line)]
    rounds = rounds[1:] or rounds
    if not rounds:
        return {}
    stages = {name: fmean(entry["stages"].get(name, 0.0) for entry in rounds) for name in STAGES}
    whole = fmean(entry["real_s"] for entry in rounds)
    return {**stages, "other": max(0.0, whole - sum(stages.values()))}


def _lines(path: Path) -> list[bytes]:
    """The file's lines; none where it is lost, since nothing but this table needs it."""
    with suppress(OSError):
        return path.read_bytes().splitlines()
    return []


def _entries(line: bytes) -> list[dict[str, Any]]:
    """The round of a line; nothing for a damaged one."""
    with suppress(ValueError):
        entry = json.loads(line)
        if isinstance(entry, dict) and "stages" in entry:
            return [entry]
    return []


def show_profile(folder: Path, *, to_stderr: bool = False) -> None:
    """Print a table, aside from output that is meant for a pipe."""
    seconds = stage_seconds(folder)
    whole = sum(seconds.values())
    rows = [
        (name, f"{spent:.3f}", f"{100 * spent / whole:.1f} %" if whole else "-")
        for name, spent in seconds.items()
    ]
    table = text_table(("stage", "seconds", "share"), rows, width=page_width())
    stream = sys.stderr if to_stderr else sys.stdout
    stream.write(f"Real seconds of a round: {whole:.3f}\n{table}\n")
