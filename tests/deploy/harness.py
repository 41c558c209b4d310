"""A server and its clients in threads of one process, over a real gRPC port of this machine."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import airtune
from airtune.deploy.client import Client
from airtune.deploy.keys import read_client_keys, read_server_keys
from airtune.deploy.messages import Job
from airtune.deploy.meter import Meter
from airtune.deploy.server import ServerOptions, serve
from airtune.deploy.shard_files import write_shards
from airtune.deploy.trainer import ClientOptions
from airtune.experiment import Experiment
from airtune.experiment.reading import read_config

DEADLINE_S = 240.0
SMALL = (
    "engine=sequential",
    "threads=1",
    "data.train_limit=120",
    "data.test_limit=24",
    "data.score_rows=0",
    "training.local_steps=2",
    "rounds=2",
)


def bare_job(**changes: Any) -> Job:
    """A job of the built-in model without keys of an experiment."""
    values: dict[str, Any] = {
        "airtune": airtune.__version__,
        "run": "ab" * 16,
        "experiment": {},
        "model": "builtin",
        "format_name": "",
        "separator": "\n",
        "digests": {},
        "limit_bytes": 1000,
        "exact_lengths": True,
        "calibrates": False,
    }
    return Job(**{**values, **changes})


@dataclass
class Deployment:
    """One deployed run: `said` has every sentence of the server and, by number, of the clients."""

    folder: Path
    shards: Path
    settings: Sequence[str]
    keys: Path | None = None
    said: list[str] = field(default_factory=list)
    client_said: dict[int, list[str]] = field(default_factory=dict)
    errors: dict[str, BaseException] = field(default_factory=dict)
    port: int = 0
    meter: Meter | None = None
    validates: bool = False
    listening: threading.Event = field(default_factory=threading.Event)

    @property
    def experiment(self) -> Experiment:
        return Experiment.load(None, self.settings)

    @property
    def count(self) -> int:
        return self.experiment.config.clients.count

    def start_server(self) -> threading.Thread:
        def note(sentence: str) -> None:
            self.said.append(sentence)
            if sentence.startswith("Listening at"):
                self.port = int(sentence.split(" ")[2].rpartition(":")[2])
                self.listening.set()

        keys = None if self.keys is None else read_server_keys(self.keys / "server")
        options = ServerOptions(f"127.0.0.1:{self.port}", keys)
        return self._thread(
            "server", lambda: serve(self.experiment, self.folder, options, None, note, self.meter)
        )

    def client(self, number: int, **options: object) -> Client:
        assert self.listening.wait(DEADLINE_S)
        said = self.client_said.setdefault(number, [])
        keys = None
        if self.keys is not None:
            keys = read_client_keys(self.keys / f"client-{number}")
        values: Mapping[str, object] = {
            "data": self.shards / f"client-{number}.jsonl",
            "threads": 1,
            **options,
        }
        return Client(
            f"localhost:{self.port}" if keys else f"127.0.0.1:{self.port}",
            number,
            keys,
            ClientOptions(**values),  # type: ignore[arg-type]
            self.folder.parent / f"state-{number}",
            said.append,
            wait_s=60.0,
            validates=self.validates,
        )

    def start_client(self, number: int, **options: object) -> threading.Thread:
        return self._thread(f"client {number}", lambda: self.client(number, **options).run())

    def run(self) -> None:
        """Everything to its end; raises what the server or a client raised."""
        threads = [self.start_server(), *map(self.start_client, range(self.count))]
        for thread in threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), (self.said, self.client_said, self.errors)
        for error in self.errors.values():
            raise error

    def _thread(self, name: str, action: Callable[[], object]) -> threading.Thread:
        def guarded() -> None:
            try:
                action()
            except BaseException as error:  # shown by the test
                self.errors[name] = error

        thread = threading.Thread(target=guarded, daemon=True, name=name)
        thread.start()
        return thread


def deployment(place: Path, *settings: str, keys: Path | None = None) -> Deployment:
    """A deployment with the shards of the simulated experiment, not yet started."""
    wanted = (*SMALL, *settings)
    shards = place / "shards"
    write_shards(read_config(None, wanted), shards)
    return Deployment(place / "real", shards, wanted, keys)


def same_run(simulated: Path, real: Path) -> None:
    """The same records and the same adapter, byte for byte."""
    for name in ("rounds.jsonl", "adapter/adapter_model.safetensors"):
        assert (simulated / name).read_bytes() == (real / name).read_bytes(), name
