"""`airtune run --profile`: the real seconds of a round by stage."""

import json
import sys
from pathlib import Path
from statistics import fmean

from airtune.cli.text_table import page_width, text_table
from airtune.federated.stopwatch import STAGES


def stage_seconds(folder: Path) -> dict[str, float]:
    """Mean real seconds of a round by stage, from `timing.jsonl`; what no stage claims is `other`.

    The first round of several is left out, for it also starts worker processes.
    """
    rounds = [json.loads(line) for line in (folder / "timing.jsonl").read_text().splitlines()]
    rounds = [entry for entry in rounds if "stages" in entry]
    rounds = rounds[1:] or rounds
    if not rounds:
        return {}
    stages = {name: fmean(entry["stages"].get(name, 0.0) for entry in rounds) for name in STAGES}
    whole = fmean(entry["real_s"] for entry in rounds)
    return {**stages, "other": max(0.0, whole - sum(stages.values()))}


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
