"""How far a deployed run is: what `airtune deploy status` shows."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from airtune.config.text import read_resolved
from airtune.errors import AirtuneError, InputError
from airtune.federated.records.run_folder import RunFolder
from airtune.folder_lock import is_held

CLIENTS = "deploy-clients.json"
"""Written by the server whenever a client comes or goes."""


def read_status(folder: Path) -> dict[str, Any]:
    """Rounds done and planned, whether the server runs, and the clients as it last saw them."""
    run = RunFolder(folder)
    if not run.deployment.exists():
        raise InputError("RUN", str(folder), "the folder of a deployed run", "it has a deploy.json")
    try:
        deployment = json.loads(run.deployment.read_text())
    except ValueError:
        raise AirtuneError(f"{run.deployment} is damaged: restore it.") from None
    clients: list[dict[str, Any]] = []
    with suppress(OSError, ValueError):
        clients = json.loads((folder / CLIENTS).read_text())
    running = is_held(folder)
    if not running:
        clients = [{**row, "connected": False} for row in clients]
    done = run.records.read_bytes().count(b"\n") if run.records.exists() else 0
    return {
        "rounds_done": done,
        "rounds": read_resolved(run.experiment)[0].get("rounds"),
        "running": running,
        "starts": deployment.get("starts"),
        "clients": clients,
    }
