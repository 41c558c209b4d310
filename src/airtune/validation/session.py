"""One validation: links, keys, shards and processes, and what they leave in a folder."""

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from airtune.config.experiment import ExperimentConfig
from airtune.config.text import resolved_yaml
from airtune.deploy.hub import Say
from airtune.deploy.issuing import make_keys
from airtune.deploy.links import HEADS, SERVER, ShapedLinks
from airtune.deploy.pin import CpuQuota, pin
from airtune.deploy.shard_files import write_shards
from airtune.errors import AirtuneError
from airtune.experiment.digests import user_parts
from airtune.experiment.paths import with_absolute_paths
from airtune.files import make_folder, write_text_atomic
from airtune.methods.registry import find_method
from airtune.validation.member import ClientJob, ServerJob
from airtune.validation.options import ComputingMode
from airtune.validation.wire import LinksOwner

PORT = 8443
LOOKS_EVERY_S = 0.2
BUILTIN = "builtin"
LISTENS = "Listening at"
"""What a server says once it takes clients."""


@dataclass(frozen=True)
class Place:
    """The folder of one arm of a validation."""

    path: Path

    @property
    def run(self) -> Path:
        """The run folder that the server writes."""
        return self.path / "run"

    @property
    def measured(self) -> Path:
        """What the server's meter writes, a line a round."""
        return self.path / "measured.jsonl"

    def log(self, who: str) -> Path:
        """What a process said."""
        return self.path / f"{who}.log"


def run_arm(
    config: ExperimentConfig, place: Place, mode: ComputingMode, parts: Sequence[Path], say: Say
) -> None:
    """Run an experiment on shaped links into a folder.

    Everything made is removed, whatever happens: namespaces, quotas, keys, processes. Raises
    AirtuneError with what a process said last where one fails.
    """
    make_folder("--out", place.path)
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="airtune-validate-")))
        count = config.clients.count
        # With cell.overhead_share the plan's rates are those on the air.
        links = ShapedLinks(count, 0.0 if config.cell.overhead_share else HEADS)
        stack.enter_context(links)
        say("Writing shards and keys.")
        write_shards(config, work / "shards")
        make_keys(work / "keys", count, [links.address(SERVER)])
        write_text_atomic(work / "experiment.yaml", _experiment(config, mode))
        start = _Starter(links, work, place, mode, stack, [str(path) for path in parts])
        server = start.server(config)
        # A main server measures its speed first, and clients that start would slow it down.
        _await_server(server, place)
        clients = [start.client(config, number) for number in range(count)]
        _watch(server, clients, place, config.rounds, say)


def _experiment(config: ExperimentConfig, mode: ComputingMode) -> str:
    speeds = "profiles" if mode.kind == "emulated" else "measured"
    deploy = config.deploy.model_copy(update={"speeds": speeds})
    return resolved_yaml(with_absolute_paths(config.model_copy(update={"deploy": deploy})))


@dataclass
class _Starter:
    """Starts the processes of one arm, restricted as the mode says."""

    links: ShapedLinks
    work: Path
    place: Place
    mode: ComputingMode
    stack: ExitStack
    parts: list[str]

    def server(self, config: ExperimentConfig) -> "subprocess.Popen[Any]":
        ours, theirs = socket.socketpair()
        LinksOwner(self.links, ours)
        job = ServerJob(
            experiment=str(self.work / "experiment.yaml"),
            settings=[],
            folder=str(self.place.run),
            measured=str(self.place.measured),
            keys=str(self.work / "keys" / "server"),
            listen=self._address,
            descriptor=theirs.fileno(),
            emulates=self.mode.kind == "emulated",
            calibrates=self.mode.kind != "emulated" and find_method(config.method).splits,
            shards=str(self.work / "shards"),
            parts=self.parts,
        )
        with theirs:
            process = self._start(SERVER, "server", asdict(job), pass_fds=(theirs.fileno(),))
        if self.mode.kind == "pinned":
            pin(process.pid, self.mode.server_cores)
        return process

    def client(self, config: ExperimentConfig, number: int) -> "subprocess.Popen[Any]":
        section = config.methods.get(config.method)
        named = {key: str(getattr(section, key)) for key in find_method(config.method).files}
        job = ClientJob(
            server=self._address,
            keys=str(self.work / "keys" / f"client-{number}"),
            data=str(self.work / "shards" / f"client-{number}.jsonl"),
            model=None if config.model == BUILTIN else str(config.model),
            state=str(self.work / f"state-{number}"),
            template=config.data.chat_template,
            trust_remote_code=config.trust_remote_code,
            files={
                f"{config.method}.{key}": path
                for key, path in named.items()
                if not path.startswith(BUILTIN)
            },
            allowed=[config.method, *(part.name for part in user_parts(config))],
            parts=self.parts,
        )
        process = self._start(number, "client", asdict(job))
        if self.mode.kind == "pinned":
            pin(process.pid, [self.mode.client_cores[number]])
        elif self.mode.share is not None:
            quota = self.stack.enter_context(CpuQuota(self.mode.share))
            quota.add(process.pid)
        return process

    @property
    def _address(self) -> str:
        return f"{self.links.address(SERVER)}:{PORT}"

    def _start(
        self, where: Any, part: str, values: Mapping[str, Any], **options: Any
    ) -> "subprocess.Popen[Any]":
        name = part if where == SERVER else f"{part}-{where}"
        file = self.work / f"{name}.json"
        file.write_text(json.dumps({"part": part, **values}))
        with self.place.log(name).open("w") as log:
            return self.links.popen(
                where,
                [sys.executable, "-m", "airtune.validation.member", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the process that owns the links, which ends the others.
                start_new_session=True,
                **options,
            )


def _await_server(server: "subprocess.Popen[Any]", place: Place) -> None:
    """Until the server listens."""
    while not any(LISTENS in line for line in place.log("server").read_text().splitlines()):
        if server.poll() is not None:
            _failed(place.log("server"), "The server")
        time.sleep(LOOKS_EVERY_S)


def _watch(
    server: "subprocess.Popen[Any]",
    clients: Sequence["subprocess.Popen[Any]"],
    place: Place,
    rounds: int,
    say: Say,
) -> None:
    """Until the server has ended, a sentence a round. Raises AirtuneError where a process fails."""
    reported = 0
    while server.poll() is None:
        for number, client in enumerate(clients):
            if client.poll():
                _failed(place.log(f"client-{number}"), f"Client {number}")
        done = _done(place)
        if done > reported:
            reported = done
            say(f"Round {done} of {rounds} is measured.")
        time.sleep(LOOKS_EVERY_S)
    if server.returncode:
        _failed(place.log("server"), "The server")


def _done(place: Place) -> int:
    return len(place.measured.read_bytes().splitlines()) if place.measured.exists() else 0


def _failed(log: Path, who: str) -> None:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1].removeprefix("airtune: ") if lines else "it wrote nothing"
    raise AirtuneError(f"{who} of the validation failed: {last} ({log} has all that it wrote).")
