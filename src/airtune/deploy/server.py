"""A server on its own machine: wait for clients, then the rounds of `airtune run`, checkpointed.

The world is built as for a simulated run, with clients elsewhere: the server loads the model and
the test rows, and knows of the clients' rows what they report. Records, adapter and checkpoints are
those of `airtune run`; measured seconds stand in `timing.jsonl` alone.
"""

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from shlex import quote
from typing import Any, final

import numpy as np

from airtune.config.experiment import DeploySection, ExperimentConfig
from airtune.config.text import plain_values
from airtune.cost.device import FIGURES, DeviceProfile, refuse_figures
from airtune.deploy.backend import RemoteClients
from airtune.deploy.facts import ReportedRows, RowFacts, checked_facts
from airtune.deploy.hub import Hub, Say
from airtune.deploy.job import make_job
from airtune.deploy.keys import ServerKeys
from airtune.deploy.measured import FILE, MeasuredCell
from airtune.deploy.messages import DeviceFigures, Job, Ready
from airtune.deploy.meter import Meter
from airtune.deploy.service import open_server
from airtune.deploy.status import CLIENTS
from airtune.errors import AirtuneError, InputError
from airtune.experiment.digests import digest, result_keys
from airtune.experiment.energy import refuse_on_machines
from airtune.experiment.experiment import Experiment
from airtune.experiment.loading import LoadedModel, LoadedServer, prepared
from airtune.experiment.run import Run
from airtune.experiment.shards import TestRows
from airtune.experiment.world import Clients, tx_powers_w
from airtune.federated.backends.backend import Backend, ClientSide, ClientTask
from airtune.federated.records.run_folder import RunFolder
from airtune.files import write_json_atomic
from airtune.methods.registry import find_method
from airtune.methods.spec import refuse_changed_base
from airtune.wireless.channel import open_channel
from airtune.workload.adapter_shape import adapter_tensors

SPARE_BYTES = 1 << 20
"""Of a message, beside what the shapes of the model say."""


@dataclass(frozen=True)
class ServerOptions:
    """Where the server listens, and with which keys (None: unencrypted, on this machine alone)."""

    listen: str
    keys: ServerKeys | None


@final
@dataclass(frozen=True)
class Deployment:
    """What a run folder says of its deployment: the run's digest and the starts of its server.

    `experiment` is a digest of the keys that it was begun with.
    """

    run: str
    starts: int
    experiment: str

    @classmethod
    def read(cls, folder: Path, config: ExperimentConfig) -> "Deployment":
        """That of a folder, one start later, or a new one.

        Raises InputError where the folder was begun with another experiment.
        """
        own = digest(result_keys(config))
        path = RunFolder(folder).deployment
        if not path.exists():
            return cls(secrets.token_hex(16), 1, own)
        try:
            found = cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            raise AirtuneError(f"{path} is damaged: restore it, or choose another --out.") from None
        if found.experiment != own:
            raise InputError(
                "--out",
                f"{folder}, which was begun with another experiment",
                "the folder of this experiment, or a new one",
                "give the experiment that it was begun with",
            )
        return replace(found, starts=found.starts + 1)


@final
class JoinedClients:
    """`experiment.world.Elsewhere`: clients that dial in."""

    def __init__(self, hub: Hub, folder: Path, known: Deployment, settings: DeploySection) -> None:
        self._hub, self._folder, self._known = hub, folder, known
        self._settings = settings

    @property
    def files(self) -> Mapping[str, Any]:
        """The file that marks the run folder."""
        return {RunFolder(self._folder).deployment.name: asdict(self._known)}

    def join(self, server: LoadedServer, loaded: LoadedModel, tests: TestRows) -> Clients:
        """Wait until every client of the experiment has reported its rows."""
        # How clients are waited for may change when a run goes on.
        config = loaded.config.model_copy(update={"deploy": self._settings})
        hub = self._hub
        if self._known.starts > 1:
            write_json_atomic(RunFolder(self._folder).deployment, asdict(self._known))
        limit = longest_part(loaded)
        hub.limits = {"payload": limit}
        measures = config.deploy.rates == "measured"
        probes = measures and not (self._folder / FILE).exists()
        job = make_job(loaded, tests.task, hub.run, limit, config, probes=probes)
        hub.check_ready = lambda client, ready, parts: check_report(
            client, ready, parts, config, job
        )
        with hub.changed:
            hub.job = job
            hub.changed.notify_all()
        self._await(config)
        facts: list[RowFacts] = [session.facts for session in hub.sessions]
        training = config.training
        rows = ReportedRows(facts, training.batch_size, training.local_steps, config.seed)
        devices = tuple(
            _device(profile, session.ready, measured=job.calibrates)
            for profile, session in zip(server.devices, hub.sessions, strict=True)
        )
        cell = self._measured_cell(config, probed=probes) if measures else None
        rate_bps = _planned_rates(server, devices, config) if config.deploy.pace else None

        def backend(side: ClientSide) -> Backend:
            if side.method.split is not None:
                _refuse_with_split(config.deploy)
            return RemoteClients(hub, side, config.deploy, self._known.starts, cell, rate_bps)

        return Clients(
            devices,
            rows,
            _not_here,
            backend,
            channel=None if cell is None else cell.channel(),
            cell=None if cell is None else cell.settings,
            opened=hub.meter.opened,
        )

    def _measured_cell(self, config: ExperimentConfig, *, probed: bool) -> MeasuredCell:
        """The channel by what the clients probed, or as the run left it."""
        path, cell = self._folder / FILE, config.cell
        if not probed:
            done = RunFolder(self._folder).records
            rounds = done.read_bytes().count(b"\n") if done.exists() else 0
            return MeasuredCell.read(cell, path, rounds)
        found = [_rates(session.ready) for session in self._hub.sessions]
        if cell.round_trip_s == 0.0:
            cell = cell.model_copy(update={"round_trip_s": max(trip for _, _, trip in found)})
        up, down = [rate for rate, _, _ in found], [rate for _, rate, _ in found]
        return MeasuredCell.begin(cell, path, up, down)

    def _await(self, config: ExperimentConfig) -> None:
        hub, began = self._hub, time.monotonic()
        while True:
            with hub.changed:
                missing = [k for k, session in enumerate(hub.sessions) if session.ready is None]
                if not missing:
                    return
                if hub.failed is not None:
                    raise AirtuneError(f"Clients are waited for no longer: {hub.failed}.")
                hub.changed.wait(0.5)
            if time.monotonic() - began > config.deploy.join_s:
                names = ", ".join(map(str, missing[:5])) + (", ..." if missing[5:] else "")
                raise AirtuneError(
                    f"Clients {names} ({len(missing)} of {hub.clients}) have not joined within "
                    f"{config.deploy.join_s:g} s (deploy.join_s): {hub.to_join}."
                )


def _planned_rates(
    server: LoadedServer, devices: tuple[DeviceProfile, ...], config: ExperimentConfig
) -> Callable[[ClientTask], float]:
    """The rate of a client's planned share of the band, as the planner saw the channel [bit/s]."""
    channel = server.measured or open_channel(config.cell, config.clients.count, config.seed)
    power_w = tx_powers_w(config, devices)

    def rate_bps(task: ClientTask) -> float:
        client = np.array([task.client], dtype=np.int64)
        links = channel.observe(task.round_index, client).estimate.uplink(power_w, client)
        return float(links.rate(np.array([task.plan.bandwidth_hz]))[0])

    return rate_bps


def _refuse_with_split(settings: DeploySection) -> None:
    """InputError for keys that do nothing for a split model, whose links are planned apart."""
    for key, value, allowed in (("rates", settings.rates, "cell"), ("pace", settings.pace, False)):
        if value != allowed:
            raise InputError(
                f"deploy.{key}", value, f"{allowed} with a method that splits the model"
            )


def _not_here(client: int, round_index: int) -> Sequence[Any]:
    raise AssertionError("the rows of clients are on other machines")


def longest_part(loaded: LoadedModel) -> int:
    """The most bytes of one part of a message: an adapter, or the activations of a batch."""
    config = loaded.config
    shapes = adapter_tensors(loaded.architecture, loaded.trained)
    adapter = sum(map(prod, shapes.values()))
    tokens = config.training.batch_size * config.data.max_tokens
    return SPARE_BYTES + 8 * max(adapter, tokens * loaded.architecture.hidden_size)


def check_report(
    client: int, ready: Ready, parts: Any, config: ExperimentConfig, job: Job
) -> RowFacts:
    """A client's facts; what it measured is there where the job asks for it, and possible."""
    facts = checked_facts(ready, parts, client, config)
    device = ready.device
    figures = {} if device is None else {name: getattr(device, name) for name in FIGURES}
    if job.calibrates:
        if ready.flop_rate is None:
            raise InputError(
                f"client {client}: flop_rate", "left out", "given (deploy.speeds: measured)"
            )
        figures["training_flop_rate"] = ready.flop_rate
    if job.probes:
        _refuse_rates(client, ready)
    try:
        refuse_figures(**figures)
    except InputError as error:
        raise error.within(f"client {client}") from None
    return facts


def _refuse_rates(client: int, ready: Ready) -> None:
    """InputError for a probed rate or round trip that no link has."""
    for name, value, least, most in (
        ("uplink_bps", ready.uplink_bps, 1e2, 1e12),
        ("downlink_bps", ready.downlink_bps, 1e2, 1e12),
        ("round_trip_s", ready.round_trip_s, 0.0, 60.0),
    ):
        if value is None or not least <= value <= most:
            raise InputError(f"client {client}: {name}", value, f"from {least:g} to {most:g}")


def _rates(ready: Ready | None) -> tuple[float, float, float]:
    """What a client probed, checked: uplink and downlink [bit/s], round trip [s]."""
    assert ready is not None
    assert ready.uplink_bps is not None
    assert ready.downlink_bps is not None
    assert ready.round_trip_s is not None
    return ready.uplink_bps, ready.downlink_bps, ready.round_trip_s


def _device(profile: DeviceProfile, ready: Ready | None, *, measured: bool) -> DeviceProfile:
    """The experiment's profile of a client, with what the client states or has measured."""
    assert ready is not None
    stated: DeviceFigures | None = ready.device
    if stated is not None:
        own = {name: getattr(stated, name) for name in FIGURES}
        profile = replace(profile, name=stated.name, title=stated.name, **own)
    if measured:
        assert ready.flop_rate is not None, "refused by check_report"
        profile = replace(profile, training_flop_rate=ready.flop_rate)
    return profile


def serve(
    experiment: Experiment,
    folder: Path,
    options: ServerOptions,
    listener: Any,
    say: Say,
    meter: Meter | None = None,
) -> Run:
    """Run an experiment with clients on other machines into `folder`, or go on with it.

    `meter` has hooks around every round. Raises AirtuneError where clients stay away; every
    finished round is kept.
    """
    config = prepared(experiment.config)
    refuse_undeployable(config)
    known = Deployment.read(folder, config)
    hub = Hub(known.run, config.clients.count, say, meter=meter or Meter())
    hub.to_go_on = (
        f"start the same `airtune deploy server` with --out {quote(str(folder))} to go on"
    )
    server, port = open_server(hub, options.listen, options.keys)
    host = options.listen.rpartition(":")[0]
    how = "with mutual TLS" if options.keys else "UNENCRYPTED, on this machine alone"
    say(f"Listening at {host}:{port} {how}; waiting for {hub.clients} clients.")
    try:
        return conduct(experiment, folder, known, hub, listener)
    finally:
        # Clients end with the run; after an error they wait for a server that is started again.
        server.stop(grace=5.0 if hub.ended else 0.2).wait()


def conduct(
    experiment: Experiment, folder: Path, known: Deployment, hub: Hub, listener: Any
) -> Run:
    """The rounds of an experiment with the clients of a hub, which end with them."""
    hub.watch = lambda rows: _note_clients(folder, rows)
    joined = JoinedClients(hub, folder, known, experiment.config.deploy)
    if known.starts > 1:
        # Trackers may change when a run goes on, too.
        trackers = json.dumps(plain_values(experiment.config)["report_to"])
        done = Experiment.resume(
            folder, listener=listener, settings=[f"report_to={trackers}"], elsewhere=joined
        )
    else:
        done = experiment.run(folder, listener, elsewhere=joined)
    hub.end("The run has ended.")
    return done


def _note_clients(folder: Path, rows: list[dict[str, Any]]) -> None:
    """For `airtune deploy status`; nothing is written before there is a run folder."""
    if RunFolder(folder).deployment.exists():
        write_json_atomic(folder / CLIENTS, rows)


def refuse_undeployable(config: ExperimentConfig) -> None:
    """InputError for what cannot run with clients on other machines."""
    if config.backend != "local":
        raise InputError(
            "backend", config.backend, "local where clients are on other machines", "leave it out"
        )
    refuse_on_machines(config)
    spec = find_method(config.method)
    refuse_changed_base(spec)
    options = config.section(spec.options)
    if config.deploy.rates == "measured" and not config.cell.is_drawn:
        allowed = "cell beside cell.trace, cell.replay or cell.channel"
        raise InputError("deploy.rates", "measured", allowed, "give one of them")
    for stage in spec.offline:
        if stage.wanted(options):
            raise InputError(
                f"{spec.name}: {stage.name}",
                "wanted before round 1",
                "settled before clients join",
                "run it in a simulation first, and write its choice into the experiment",
            )
