"""The rounds of an experiment in a ServerApp: the world of a deployed run, over messages."""

import shlex
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from airtune.deploy.flower.carrier import Carrier
from airtune.deploy.flower.fit import refuse_unfit
from airtune.deploy.flower.messenger import Messenger
from airtune.deploy.hub import Hub, Say
from airtune.deploy.server import Deployment, conduct
from airtune.errors import InputError, reason_of
from airtune.experiment.experiment import Experiment
from airtune.experiment.listening import Silent
from airtune.experiment.loading import prepared
from airtune.experiment.run import Run
from airtune.federated.records.record import RoundRecord

LOOKS_EVERY_S = 0.2
OUT, SETTINGS = "out", "settings"
"""Keys of the run-config."""


def serve_flower(grid: Any, path: Path, run_config: Mapping[str, Any]) -> Run:
    """Run the experiment of a file, or go on with it, with the nodes of a Grid as clients.

    The run-config names the folder of the run, `out`, and has `settings`, KEY=VALUE after KEY=VALUE
    as for --set. Raises AirtuneError where clients stay away; every finished round is kept.
    """
    from airtune.deploy.flower.grid import FlowerCarrier

    folder = Path(str(run_config.get(OUT, "")))
    if not folder.is_absolute():
        raise InputError(OUT, str(folder), "an absolute path on the ServerApp's machine")
    experiment = Experiment.load(path, shlex.split(str(run_config.get(SETTINGS, ""))))
    return run_over(FlowerCarrier(grid), experiment, folder, Rounds(), _say)


def run_over(
    carrier: Carrier, experiment: Experiment, folder: Path, listener: Any, say: Say
) -> Run:
    """The rounds with clients behind a carrier."""
    config = prepared(experiment.config)
    refuse_unfit(config)
    known = Deployment.read(folder, config)
    hub = Hub(
        known.run,
        config.clients.count,
        say,
        to_join="start each one's `airtune deploy trainer` and SuperNode, and `flwr run` again",
        to_go_on=f"the same `flwr run` with out={shlex.quote(str(folder))} goes on",
    )
    messenger = Messenger(hub, carrier)
    say(f"Run folder {folder}; waiting for {hub.clients} clients.")
    outcome: Future[Run] = Future()

    def work() -> None:
        try:
            outcome.set_result(conduct(experiment, folder, known, hub, listener))
        except BaseException as error:  # raised again where the outcome is read
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True, name="rounds").start()
    try:
        while not outcome.done():
            messenger.step()
            time.sleep(LOOKS_EVERY_S)
    except BaseException as error:
        hub.fail(f"its messages are carried no longer ({reason_of(error)})")
        if not isinstance(error, Exception):
            raise
    return outcome.result()


class Rounds(Silent):
    """One line for every round, for the log of a ServerApp."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def notice(self, sentence: str) -> None:
        """A sentence about the run."""
        _say(sentence)

    def round_done(self, record: RoundRecord) -> None:
        """A finished round, with the seconds since the one before."""
        now = time.monotonic()
        _say(
            f"Round {record.round}: test loss {record.test_loss:.4f}, {now - self._began_s:.1f} s."
        )
        self._began_s = now


def _say(sentence: str) -> None:
    print(sentence, flush=True)
