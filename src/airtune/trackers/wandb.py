"""Weights & Biases: one run there for one run here, online or offline (`WANDB_MODE=offline`).

Its client would also record the command, whose settings may be secret, the machine and the source:
all of that is switched off.
"""

import os
import secrets
from collections.abc import Mapping
from typing import Any

from airtune.errors import InputError
from airtune.trackers.options import WandbOptions
from airtune.trackers.tracker import Outcome, TrackedRun, Tracker

DEFAULTS = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
"""Of the environment, where it does not say otherwise."""
WAIT_S = 30.0
"""For its server, when a run is opened or closed."""


class Wandb(Tracker):
    """Files are in `RUN/wandb`, from where `wandb sync` sends those of an offline run."""

    def __init__(self, options: WandbOptions) -> None:
        self._options = options
        self._run: Any = None

    def check(self) -> None:
        """Refuse what would end in a question at the terminal: no login, and online."""
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        import wandb

        online = wandb.setup().settings.mode in ("online", "shared")
        if online and not wandb.login(prompt=False, verify=False):
            raise InputError(
                "report_to",
                "wandb",
                "logged in, or offline",
                "run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline",
            )

    def begin(self, run: TrackedRun) -> str:
        """A new run, or the one that has this id."""
        import wandb

        quiet = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            init_timeout=WAIT_S,
            finish_timeout=WAIT_S,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            project=self._options.project,
            entity=self._options.entity,
            name=run.name,
            id=run.id or secrets.token_hex(4),
            resume="allow",
            dir=str(run.folder),
            settings=quiet,
        )
        self._run.config.update(dict(run.experiment), allow_val_change=True)
        return str(self._run.id)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """A round that the run has already is left out there."""
        self._run.log(dict(numbers), step=step)

    def end(self, outcome: Outcome, note: Mapping[str, str]) -> None:
        """The note, in the run's summary."""
        self._run.summary.update(dict(note))
        self._run.finish(exit_code=0 if outcome == "finished" else 1)
