"""A quick run with trackers, and what a tracker should hold of it, read from rounds.jsonl alone."""

import json
from pathlib import Path
from typing import Any

from airtune import Experiment, Run
from tests.cli.conftest import quick

SETTINGS = quick("rounds=2", "clients.count=2")[1::2]
SECRET = "s3cr3t-of-the-command-line"


def tracked_run(folder: Path, report_to: Any, *settings: str, listener: Any = None) -> Run:
    """Two rounds of two clients."""
    named = f"report_to={json.dumps(report_to)}"
    experiment = Experiment.load(None, [*SETTINGS, named, *settings])
    return experiment.run(folder, listener)


def expected(folder: Path) -> dict[int, dict[str, float]]:
    """Round -> what is to be seen of it, by name."""
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return {line["round"]: _of_round(line) for line in lines}


def _of_round(line: dict[str, Any]) -> dict[str, float]:
    found = {
        f"round/{key}": line[key]
        for key in ("train_loss", "test_loss", "latency_s", "virtual_time_s", "energy_j")
    }
    found |= {f"round/{name}link_bytes": line[f"{name}link_bits"] / 8 for name in ("up", "down")}
    for entry in line["clients"]:
        group = f"client-{entry['client']}"
        found |= {f"{group}/{key}": entry[key] for key in ("upload_s", "compute_s", "energy_j")}
        found[f"{group}/uplink_bytes"] = entry["uplink_bits"] / 8
    return found


def seen_files(folder: Path, word: str) -> list[str]:
    """Files that hold a word."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if word.encode() in path.read_bytes()]
