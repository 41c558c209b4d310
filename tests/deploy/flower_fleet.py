"""A SuperLink, SuperNodes and trainers as processes on this machine's loopback."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from airtune.deploy.shard_files import write_shards
from airtune.experiment.reading import read_config
from tests.deploy.harness import SMALL

ROOT = Path(__file__).parents[2]
INSTALL_S, READY_S, RUN_S, END_S, STAYS_S = 900.0, 120.0, 600.0, 20.0, 15.0
ALONE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT / "src"),
}
"""Of every process: no telemetry, no update check, nothing installed."""


def flower_environment(place: Path) -> Path:
    """The folder of Flower's commands: of this environment, or of a new one on top of it.

    Skips, with the reason, where flwr cannot be installed.
    """
    own = Path(sys.executable).parent
    if (own / "flower-superlink").exists():
        return own
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, timeout=INSTALL_S)
    packages = next(Path(sys.prefix, "lib").glob("python*/site-packages"))
    site = next(place.glob("lib/python*/site-packages"))
    # What is installed here need not be copied: 2 GB.
    (site / "beneath.pth").write_text(f"import site; site.addsitedir({str(packages)!r})\n")
    command = ["-m", "pip", "install", "-q", "-c", "constraints.txt", "-e", ".[flower]"]
    try:
        done = subprocess.run(
            [str(place / "bin/python"), *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"flwr was not installed within {INSTALL_S:g} s")
    if done.returncode:
        pytest.skip(f"flwr cannot be installed: {done.stderr.strip()[-300:]}")
    return place / "bin"


class FlowerFleet:
    """An app of an experiment and the processes that run it, ended by id.

    With `keys`, a folder of `airtune deploy keys`, over TLS, and nodes have keys of their own.
    """

    def __init__(
        self, commands: Path, place: Path, settings: Sequence[str], keys: Path | None = None
    ) -> None:
        self.commands, self.place, self.keys = commands, place, keys
        self.settings = (*SMALL, *settings)
        self.count = read_config(None, self.settings).clients.count
        self.app, self.folder = place / "app", place / "app-run"
        self.port = _free_port()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        write_shards(read_config(None, self.settings), place / "shards")
        sets = [part for key in self.settings for part in ("--set", key)]
        (place / "experiment.yaml").write_text("format: 1\n")
        self.ran("python", "-m", "airtune", "deploy", "flower", self.app, self._yaml, *sets)

    @property
    def _yaml(self) -> Path:
        return self.place / "experiment.yaml"

    @property
    def environment(self) -> Mapping[str, str]:
        """Of every process."""
        path = f"{self.commands}{os.pathsep}{os.environ['PATH']}"
        home = {"FLWR_HOME": str(self.place / "flwr"), "HOME": str(self.place), "PATH": path}
        return {**os.environ, **ALONE, **home}

    def ran(self, command: str, *arguments: object, timeout_s: float = RUN_S) -> str:
        """What a command prints that ends by itself."""
        done = subprocess.run(
            [str(self.commands / command), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self.environment,
            cwd=self.place,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr, self.logs())
        return done.stdout

    def start(self, name: str, command: str, *arguments: object) -> None:
        """A process that stays, in a session of its own so that its children end with it."""
        log = (self.place / f"{name}.log").open("ab")
        self.running[name] = subprocess.Popen(
            [str(self.commands / command), *map(str, arguments)],
            stdout=log,
            stderr=log,
            env=self.environment,
            cwd=self.place,
            start_new_session=True,
        )

    def start_superlink(self) -> None:
        """The SuperLink, and the connection `real` to it."""
        address = f"127.0.0.1:{self.port}"
        home = self.place / "flwr"
        home.mkdir(exist_ok=True)
        root = self.keys / "ca" / "ca.pem" if self.keys else None
        safety = f'root-certificates = "{root}"' if root else "insecure = true"
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "real"\n\n[superlink.real]\naddress = "{address}"\n{safety}\n'
        )
        safe: tuple[object, ...] = ("--insecure",)
        if self.keys is not None:
            own = self.keys / "server" / "server.pem"
            safe = ("--ssl-ca-certfile", root, "--ssl-certfile", own, "--ssl-keyfile", own)
            safe = (*safe, "--enable-supernode-auth")
        self.start(
            "superlink", "flower-superlink", "--host", "127.0.0.1", "--port", self.port, *safe
        )
        deadline = time.monotonic() + READY_S
        url = f"{'https' if self.keys else 'http'}://{address}/health"
        while not _answers(url, root):
            assert time.monotonic() < deadline, self.logs()
            assert self.running["superlink"].poll() is None, self.logs()
            time.sleep(0.2)

    def register(self, client: int) -> None:
        """Make a node's key and tell the SuperLink of it."""
        key = self.place / f"node-{client}"
        command = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(key)]
        subprocess.run(command, check=True, timeout=READY_S)
        self.ran("flwr", "supernode", "register", f"{key}.pub", "real")

    def socket_of(self, client: int) -> Path:
        """Where a client's trainer waits."""
        return self.place / f"own-{client}" / "trainer.sock"

    def start_trainer(self, client: int) -> None:
        """The warm process with a client's rows."""
        self.start(
            f"trainer-{client}", "python", "-m", "airtune", "deploy", "trainer",
            "--socket", self.socket_of(client), "--threads", 1,
            "--data", self.place / "shards" / f"client-{client}.jsonl",
            "--state", self.place / f"state-{client}",
        )  # fmt: skip

    def start_supernode(self, client: int) -> None:
        """The node of a client."""
        safe: tuple[object, ...] = ("--insecure",)
        if self.keys is not None:
            safe = ("--root-certificates", self.keys / "ca" / "ca.pem")
            safe = (*safe, "--auth-supernode-private-key", self.place / f"node-{client}")
        self.start(
            f"supernode-{client}", "flower-supernode", *safe,
            "--superlink", f"127.0.0.1:{self.port}", "--host", "127.0.0.1",
            "--port", _free_port(),
            "--node-config", f'client={client} socket="{self.socket_of(client)}"',
        )  # fmt: skip

    def start_all(self) -> None:
        """Everything but the run."""
        self.start_superlink()
        for client in range(self.count):
            self.start_trainer(client)
            if self.keys is not None:
                self.register(client)
            self.start_supernode(client)

    def run(self, *options: str) -> str:
        """`flwr run` to its end; what the ServerApp printed."""
        return self.ran("flwr", "run", self.app, "real", "--stream", *options)

    def begin(self) -> None:
        """`flwr run`, which goes on by itself."""
        self.ran("flwr", "run", self.app, "real")

    def await_rounds(self, count: int) -> None:
        """Wait until so many rounds are done."""
        path, deadline = self.folder / "rounds.jsonl", time.monotonic() + RUN_S
        while not path.exists() or path.read_bytes().count(b"\n") < count:
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.1)

    def bring_back(self, client: int) -> None:
        """Start a killed SuperNode, again while the SuperLink still holds the one before alive."""
        deadline = time.monotonic() + RUN_S
        while True:
            self.start_supernode(client)
            try:
                self.running[f"supernode-{client}"].wait(STAYS_S)
            except subprocess.TimeoutExpired:
                return
            assert time.monotonic() < deadline, self.logs()

    def stop(self) -> None:
        """`flwr stop` of the run that goes on."""
        listed = json.loads(self.ran("flwr", "ls", "real", "--format", "json"))
        (run,) = [row["run-id"] for row in listed["runs"] if row["status"] == "running"]
        self.ran("flwr", "stop", run, "real")

    def kill(self, name: str) -> None:
        """End a process and its children without a word."""
        _signal(self.running[name], signal.SIGKILL)
        self.running[name].wait(END_S)

    def statuses(self) -> list[str]:
        """Of the runs of the SuperLink; `flwr run` does not tell."""
        listed = json.loads(self.ran("flwr", "ls", "real", "--format", "json"))
        return [row["status"] for row in listed["runs"]]

    def end(self) -> None:
        """End every process and its children."""
        for process in self.running.values():
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + END_S
        for process in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            _signal(process, signal.SIGKILL)
            process.wait(END_S)
        shutil.rmtree(self.place / "flwr", ignore_errors=True)

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text()[-3000:]}" for path in self.place.glob("*.log")
        )


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """To a process and its children, which are one group with the id of the process."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(url: str, root: Path | None) -> bool:
    context = ssl.create_default_context(cafile=root) if root else None
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
