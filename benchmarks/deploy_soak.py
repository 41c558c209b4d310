"""Memory and descriptors of a deployment that runs for long: `python benchmarks/deploy_soak.py`.

A server and two clients as processes over mutual TLS on this machine, the built-in experiment with
uploads paced to the planned rates, so that rounds last some seconds. Once a minute the resident
memory and the open descriptors of each process are read from /proc. The figure is the memory at the
end over that at a third of the time. Needs Linux and the extra `deploy`.

    --minutes 30   how long (3 by default)
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reporting import report

from airtune.deploy.issuing import make_keys
from airtune.deploy.shard_files import write_shards
from airtune.experiment.reading import read_config

CLIENTS = 2
SETTINGS = (
    f"clients.count={CLIENTS}",
    "rounds=99999",
    "training.local_steps=1",
    "training.schedule=constant",
    "data.train_limit=200",
    "data.test_limit=16",
    "deploy.pace=true",
)


def start(folder: Path) -> dict[str, subprocess.Popen[bytes]]:
    """The processes, by name."""
    write_shards(read_config(None, SETTINGS), folder / "shards")
    make_keys(folder / "keys", CLIENTS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sets = [part for key in SETTINGS for part in ("--set", key)]
    listen = ["--listen", f"127.0.0.1:{port}", "--keys", str(folder / "keys" / "server")]
    commands = {"server": ["server", "--out", str(folder / "run"), *listen, *sets, "-q"]}
    for client in range(CLIENTS):
        commands[f"client-{client}"] = [
            "client",
            "--server",
            f"localhost:{port}",
            "--keys",
            str(folder / "keys" / f"client-{client}"),
            "--data",
            str(folder / "shards" / f"client-{client}.jsonl"),
            "--state",
            str(folder / f"state-{client}"),
            "-q",
        ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return {
        name: subprocess.Popen(
            [sys.executable, "-m", "airtune", "deploy", *command],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        for name, command in commands.items()
    }


def usage(name: str, pid: int) -> dict[str, int]:
    """Resident bytes and open descriptors of a process, each with its name."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return {
        f"{name} bytes": 1024 * int(resident.split()[1]),
        f"{name} files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


def main() -> None:
    """Run, sample, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, default=3)
    minutes = parser.parse_args().minutes
    rows: list[dict[str, int]] = []
    with tempfile.TemporaryDirectory() as place:
        running = start(Path(place))
        try:
            records = Path(place) / "run" / "rounds.jsonl"
            while not records.exists():
                time.sleep(0.2)
                assert all(process.poll() is None for process in running.values())
            for minute in range(1, minutes + 1):
                time.sleep(60)
                row = {"minute": minute, "rounds": records.read_bytes().count(b"\n")}
                for name, process in running.items():
                    row |= usage(name, process.pid)
                rows.append(row)
                print(row, flush=True)
        finally:
            for process in running.values():
                process.kill()
                process.wait()
    early, late = rows[max(len(rows) // 3 - 1, 0)], rows[-1]
    ratios = {name: round(late[f"{name} bytes"] / early[f"{name} bytes"], 4) for name in running}
    files = {name: [early[f"{name} files"], late[f"{name} files"]] for name in running}
    report("deploy_soak", rows, settings=SETTINGS, memory_ratios=ratios, open_files=files)


if __name__ == "__main__":
    main()
