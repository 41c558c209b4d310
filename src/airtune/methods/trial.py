"""Short runs in memory, with which an offline stage measures what it decides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from airtune.config.experiment import CohortSection, ExperimentConfig, StopSection
from airtune.federated.context import RoundContext
from airtune.federated.method import Exchange
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.round import run_round
from airtune.workload.architecture import Decoder
from airtune.workload.model_work import ModelWork


class Trial(Protocol):
    """An experiment loaded and checked, of which an offline stage runs or plans some rounds."""

    @property
    def config(self) -> ExperimentConfig:
        """The experiment with everything settled."""
        ...

    @property
    def architecture(self) -> Decoder:
        """The trained model's."""
        ...

    @property
    def context(self) -> RoundContext:
        """What a round needs."""
        ...

    @property
    def work(self) -> ModelWork:
        """The work of the model that is charged for."""
        ...

    def start(self) -> ServerState:
        """The state before round 1, with its test loss."""
        ...


Trials = Callable[[ExperimentConfig], Trial]
"""Loads and checks an experiment."""


@dataclass(frozen=True)
class ProxyRun:
    """What a short run showed: loss and virtual time after 0, 1, 2, ... rounds."""

    losses: tuple[float, ...]
    time_s: tuple[float, ...]

    def rounds_to(self, target_loss: float) -> float | None:
        """Rounds until the loss is first at the target, between rounds in proportion."""
        return _crossing(self.losses, target_loss)

    def time_to(self, target_loss: float) -> float | None:
        """Virtual time until then [s]."""
        rounds = self.rounds_to(target_loss)
        return None if rounds is None else float(np.interp(rounds, range(len(self)), self.time_s))

    def __len__(self) -> int:
        return len(self.losses)


def _crossing(losses: Sequence[float], target: float) -> float | None:
    for index, loss in enumerate(losses):
        if loss <= target:
            if index == 0:
                return 0.0
            before = losses[index - 1]
            return index - 1 + (before - target) / (before - loss)
    return None


def proxy_config(config: ExperimentConfig, rounds: int, clients: int) -> ExperimentConfig:
    """The experiment with so few clients a round, without reasons to stop.

    It keeps the planned number of rounds, so that the short run trains at the learning rates of the
    real run's first rounds; more are planned only where the short run is the longer one.
    """
    cohort = config.cohort.size or config.clients.count
    return config.model_copy(
        update={
            "rounds": max(rounds, config.rounds),
            "cohort": CohortSection(size=min(clients, cohort)),
            "stop": StopSection(),
            "engine": "sequential",
        }
    )


def short_run(
    trial: Trial, rounds: int, watch: Callable[[Exchange], None] | None = None
) -> ProxyRun:
    """Run a trial's first rounds without writing anything; `watch` sees each round's updates."""
    context = trial.context
    if watch is not None:
        context = replace(context, method=replace(context.method, measure=_watching(watch)))
    state = trial.start()
    losses, time_s = [state.start_loss], [0.0]
    for _ in range(rounds):
        outcome = run_round(context, state)
        state = outcome.state
        losses.append(outcome.evaluation.loss)
        time_s.append(state.clock.time_s)
    return ProxyRun(tuple(losses), tuple(time_s))


def _watching(watch: Callable[[Exchange], None]) -> Callable[[Exchange], dict[str, Any]]:
    def measure(exchange: Exchange) -> dict[str, Any]:
        watch(exchange)
        return {}

    return measure
