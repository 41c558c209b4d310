"""A process of a validation within its namespace: `python -m airtune.validation.member FILE`.

The file says which part it has, the server or a client, and is written by `session.py`.
"""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airtune.deploy.client import Client
from airtune.deploy.kept import ClientStore
from airtune.deploy.keys import read_client_keys, read_server_keys
from airtune.deploy.server import ServerOptions, serve
from airtune.deploy.trainer import ClientOptions, Trainer
from airtune.errors import AirtuneError
from airtune.experiment import Experiment
from airtune.experiment.shards import Shards
from airtune.experiment.world import build_world
from airtune.part_folders import name_folders
from airtune.validation.meter import ValidatingMeter
from airtune.validation.wire import LinksAway


@dataclass(frozen=True)
class ServerJob:
    """The server's part. `descriptor` leads to the owner of the links; with `calibrates` a split
    model's main server measures its own speed, as clients do."""

    experiment: str
    settings: list[str]
    folder: str
    measured: str
    keys: str
    listen: str
    descriptor: int
    emulates: bool
    calibrates: bool
    shards: str
    parts: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Serve until the run has ended."""
        name_folders([Path(part) for part in self.parts])
        settings = list(self.settings)
        if self.calibrates:
            method = Experiment.load(Path(self.experiment)).config.method
            settings.append(f"{method}.server_flop_rate={self._speed():.6g}")
        experiment = Experiment.load(Path(self.experiment), settings)
        meter = ValidatingMeter(
            LinksAway(self.descriptor), Path(self.measured), emulates=self.emulates
        )
        options = ServerOptions(self.listen, read_server_keys(Path(self.keys)))
        serve(experiment, Path(self.folder), options, _Told(), _say, meter)

    def _speed(self) -> float:
        own = Experiment.load(
            Path(self.experiment), [*self.settings, f"data.train={self.shards}"]
        ).config
        world = build_world(own)
        shards = world.shards
        assert isinstance(shards, Shards)
        store = ClientStore(Path(self.folder).parent / "unused")
        return Trainer(0, world.side, shards, store, world.work).measured_flop_rate()


@dataclass(frozen=True)
class ClientJob:
    """A client's part; its number is that of its keys."""

    server: str
    keys: str
    data: str
    model: str | None
    state: str
    template: str | None = None
    trust_remote_code: bool = False
    files: dict[str, str] = field(default_factory=dict)
    allowed: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Answer tasks until the server ends."""
        name_folders([Path(part) for part in self.parts])
        keys = read_client_keys(Path(self.keys))
        options = ClientOptions(
            data=Path(self.data),
            model=self.model,
            files=self.files,
            allowed=tuple(self.allowed),
            template=None if self.template is None else Path(self.template),
            trust_remote_code=self.trust_remote_code,
            threads=1,
        )
        client = Client(
            self.server, keys.client, keys, options, Path(self.state), _say, validates=True
        )
        _say(client.run())


class _Told:
    """Rounds that are done, one line each on standard output."""

    def notice(self, sentence: str) -> None:
        _say(sentence)

    def round_done(self, record: Any) -> None:
        print(json.dumps({"round": record.round}), flush=True)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def main(path: Path) -> int:
    """Run what a file says; the exit code."""
    values = json.loads(path.read_text())
    kinds = {"server": ServerJob, "client": ClientJob}
    job = kinds[values.pop("part")](**values)
    try:
        job.run()
    except AirtuneError as error:
        _say(f"airtune: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.exit(main(Path(sys.argv[1])))
