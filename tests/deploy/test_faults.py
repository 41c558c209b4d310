"""Processes that are killed: the run goes on to the bytes of an undisturbed one.

Server and clients are processes of their own, on a port of this machine.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from airtune.deploy.shard_files import write_shards
from airtune.experiment import Experiment
from airtune.experiment.reading import read_config
from tests.deploy.harness import SMALL, same_run

CLIENTS = 2
WITHIN_S = 240.0


class Fleet:
    """A server and its clients as processes; `settings` as for `--set`."""

    def __init__(self, place: Path, *settings: str) -> None:
        self.place = place
        self.settings = (*SMALL, f"clients.count={CLIENTS}", *settings)
        self.folder = place / "real"
        write_shards(read_config(None, self.settings), place / "shards")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start the server, or `client-N`, again if it was there before."""
        address = f"127.0.0.1:{self.port}"
        if name == "server":
            sets = [part for key in self.settings for part in ("--set", key)]
            command = ["server", "--out", str(self.folder), "--listen", address, *sets, "-q"]
        else:
            number = name.partition("-")[2]
            data = self.place / "shards" / f"{name}.jsonl"
            state = self.place / f"state-{number}"
            command = ["client", "--server", address, "--client", number, "--data", str(data)]
            command += ["--state", str(state), "--threads", "1", "--wait-s", "120"]
        log = (self.place / f"{name}.log").open("ab")
        self.running[name] = subprocess.Popen(
            [sys.executable, "-m", "airtune", "deploy", *command, "--insecure"],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start_all(self) -> None:
        for name in ("server", *(f"client-{k}" for k in range(CLIENTS))):
            self.start(name)

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait(WITHIN_S)

    def rounds_done(self) -> int:
        path = self.folder / "rounds.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def await_rounds(self, count: int) -> None:
        deadline = time.monotonic() + WITHIN_S
        while self.rounds_done() < count:
            assert time.monotonic() < deadline, self.logs()
            assert self.running["server"].poll() is None, self.logs()
            time.sleep(0.05)

    def join(self) -> None:
        """Wait until all end well."""
        for name, process in self.running.items():
            assert process.wait(WITHIN_S) == 0, (name, self.logs())

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text()[-2000:]}" for path in self.place.glob("*.log")
        )

    def end(self) -> None:
        for process in self.running.values():
            if process.poll() is None:
                process.kill()
                process.wait(10.0)


@pytest.fixture
def fleets() -> Iterator[list[Fleet]]:
    found: list[Fleet] = []
    yield found
    for fleet in found:
        fleet.end()


METHODS = {
    "fedlora": ("method=fedlora", "rounds=4"),
    "sflllm": ("method=sflllm", "rounds=4"),
}


@pytest.mark.parametrize("method", [pytest.param("fedlora", marks=pytest.mark.slow), "sflllm"])
@pytest.mark.slow
def test_a_killed_client_and_a_killed_server(
    method: str, fleets: list[Fleet], tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, *METHODS[method])
    fleets.append(fleet)
    Experiment.load(None, fleet.settings).run(tmp_path / "simulated")
    fleet.start_all()
    fleet.await_rounds(1)
    fleet.kill("client-1")
    fleet.start("client-1")
    fleet.await_rounds(2)
    fleet.kill("server")
    fleet.start("server")
    fleet.join()
    same_run(tmp_path / "simulated", fleet.folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_random_faults(seed: int, fleets: list[Fleet], tmp_path: Path) -> None:
    """Three faults at random moments: a client or the server killed, or stopped for a while."""
    draws = np.random.default_rng([14, seed])
    method = list(METHODS)[seed % 2]
    fleet = Fleet(tmp_path, *METHODS[method], "rounds=6", "training.local_steps=4")
    fleets.append(fleet)
    Experiment.load(None, fleet.settings).run(tmp_path / "simulated")
    fleet.start_all()
    for _ in range(3):
        time.sleep(float(draws.uniform(0.0, 8.0)))
        name = ("server", "client-0", "client-1")[draws.integers(3)]
        process = fleet.running[name]
        if process.poll() is not None:
            break
        if draws.random() < 0.3:
            process.send_signal(signal.SIGSTOP)
            time.sleep(float(draws.uniform(1.0, 5.0)))
            process.send_signal(signal.SIGCONT)
        else:
            fleet.kill(name)
            time.sleep(float(draws.uniform(0.0, 2.0)))
            fleet.start(name)
    fleet.join()
    same_run(tmp_path / "simulated", fleet.folder)


@pytest.mark.slow
def test_a_server_killed_ten_times(fleets: list[Fleet], tmp_path: Path) -> None:
    """At ten random moments, each after the run has moved on by a round."""
    draws = np.random.default_rng(14)
    fleet = Fleet(tmp_path, "rounds=14")
    fleets.append(fleet)
    Experiment.load(None, fleet.settings).run(tmp_path / "simulated")
    fleet.start_all()
    for _ in range(10):
        fleet.await_rounds(fleet.rounds_done() + 1)
        time.sleep(float(draws.uniform(0.0, 0.5)))
        fleet.kill("server")
        fleet.start("server")
    fleet.join()
    same_run(tmp_path / "simulated", fleet.folder)


@pytest.mark.slow
def test_all_clients_gone_stops_with_a_message(fleets: list[Fleet], tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "rounds=5", "deploy.patience_s=2", "deploy.wait_s=6")
    fleets.append(fleet)
    fleet.start_all()
    fleet.await_rounds(1)
    for client in range(CLIENTS):
        fleet.kill(f"client-{client}")
    assert fleet.running["server"].wait(WITHIN_S) == 2
    said = (tmp_path / "server.log").read_text()
    assert "0 clients answered within 6 s, and deploy.quorum is 1" in said
    assert "Every finished round is kept" in said
    done = fleet.rounds_done()
    for name in ("server", "client-0", "client-1"):
        fleet.start(name)
    fleet.join()
    assert fleet.rounds_done() == 5 > done


@pytest.mark.slow
def test_clients_wait_for_a_server_that_stopped(fleets: list[Fleet], tmp_path: Path) -> None:
    """Below the quorum the server stops; the client that is there waits for it."""
    settings = ("rounds=5", "deploy.patience_s=1", "deploy.wait_s=3", "deploy.quorum=2")
    fleet = Fleet(tmp_path, *settings)
    fleets.append(fleet)
    Experiment.load(None, fleet.settings).run(tmp_path / "simulated")
    fleet.start_all()
    fleet.await_rounds(1)
    fleet.kill("client-0")
    assert fleet.running["server"].wait(WITHIN_S) == 2
    assert fleet.running["client-1"].poll() is None
    for name in ("server", "client-0"):
        fleet.start(name)
    fleet.join()
    same_run(tmp_path / "simulated", fleet.folder)


@pytest.mark.slow
def test_a_client_that_stays_away_is_silent(fleets: list[Fleet], tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "rounds=4", "deploy.patience_s=1")
    fleets.append(fleet)
    fleet.start_all()
    fleet.await_rounds(1)
    fleet.kill("client-1")
    fleet.await_rounds(3)
    fleet.running.pop("client-1")
    fleet.join()
    records = Experiment.load(None, fleet.settings)
    assert records.config.rounds == fleet.rounds_done()
    lines = (fleet.folder / "rounds.jsonl").read_text().splitlines()
    assert '"outcome":"silent"' in lines[-1]


@pytest.mark.slow
def test_two_servers_on_one_folder(fleets: list[Fleet], tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "rounds=6")
    fleets.append(fleet)
    fleet.start_all()
    fleet.await_rounds(1)
    first = fleet.running.pop("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port, fleet.port = fleet.port, probe.getsockname()[1]
    fleet.start("server")
    assert fleet.running["server"].wait(WITHIN_S) == 2
    assert "is in use by another airtune process" in (tmp_path / "server.log").read_text()
    fleet.running["server"], fleet.port = first, port
    fleet.join()
