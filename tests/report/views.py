"""Runs made up for reports: every kind of field that a method may record."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from airtune.federated.records.record import RoundRecord
from airtune.report.view import RunView
from airtune.report.waiting import ending

DEVICES = ("pixel-9", "laptop-cpu")


def records(rounds: int = 6, clients: int = 4, seed: int = 0, **extra: Any) -> list[RoundRecord]:
    """The rounds of `lines`."""
    return read(lines(rounds, clients, seed, **extra))


def read(made: Sequence[dict[str, Any]]) -> list[RoundRecord]:
    """Objects of a rounds.jsonl as records."""
    return [RoundRecord.read(line) for line in made]


def lines(rounds: int = 6, clients: int = 4, seed: int = 0, **extra: Any) -> list[dict[str, Any]]:
    """Rounds in which client 3 is mostly last. `extra`: more fields of the round."""
    draw = np.random.default_rng(seed)
    made = []
    time_s = 0.0
    for number in range(1, rounds + 1):
        entries = [_entry(client, number, draw) for client in range(clients)]
        ends = [e["broadcast_s"] + e["compute_s"] + e["upload_s"] for e in entries]
        time_s += max(ends)
        made.append(
            {
                "round": number,
                "virtual_time_s": time_s,
                "latency_s": max(ends),
                "planned_latency_s": max(ends),
                "straggler": int(np.argmax(ends)),
                "straggler_stage": "upload",
                "train_loss": 2.5 / number,
                "test_loss": 2.0 / number,
                "uplink_bits": sum(e["uplink_bits"] for e in entries),
                "downlink_bits": 16_000,
                "energy_j": sum(e["energy_j"] for e in entries),
                "skipped": {},
                "clients": entries,
                **extra,
            }
        )
    return made


def _entry(client: int, number: int, draw: np.random.Generator) -> dict[str, Any]:
    return {
        "client": client,
        "outcome": "in_time",
        "bandwidth_hz": float(draw.uniform(1e4, 3e6)),
        "rate_bps": 1e6 * (client + 1),
        "broadcast_s": 0.5,
        "compute_s": 2.0,
        "upload_s": 1.0 + client + 0.1 * number,
        "uplink_bits": 80_000,
        "flops": 3e9,
        "energy_j": 7.0,
        "rank": 8,
        "tx_power_w": 0.2,
        # Recorded only where something is removed.
        **({"pruning_rate": 0.25} if (client + number) % 2 else {}),
        "kept_ranks": [4 + client, 2],
        "main_subchannels": [3, 5] if client else [1],
    }


def view(made: Sequence[RoundRecord], **changes: Any) -> RunView:
    """The view of such a run."""
    clients = max(entry.client for record in made for entry in record.clients) + 1
    summary = {
        "model": "builtin",
        "method": "jcpba",
        "charge_as": "llama-3.2-1b",
        "rounds": len(made),
        "stopped": None,
        "start_test_loss": 3.0,
        "final_test_loss": made[-1].test_loss,
        "scores": {"share of slots realised": {"before": 0.25, "after": 0.5, "examples": 4}},
        "virtual_time_s": made[-1].virtual_time_s,
        "energy_j": 168.0,
        "uplink_bits": 1_920_000,
        "downlink_bits": 96_000,
        **ending(made, [DEVICES[k % 2] for k in range(clients)]),
        "sample": {"prompt": "<p>", "before": "b", "after": "a", "reference": "r"},
    }
    arguments: dict[str, Any] = {
        "summary": summary,
        "records": made,
        "names": [f"client {k} ({DEVICES[k % 2]})" for k in range(clients)],
        "position_m": [[10.0 * k - 15.0, 20.0] for k in range(clients)],
        "weights": np.arange(1.0, clients + 1),
        "limits": {"radius_m": 50.0, "pruning_budget": 0.3, "deadline_s": 9.0},
        "experiment_yaml": "rounds: 6\n",
    }
    return RunView(**(arguments | changes))
