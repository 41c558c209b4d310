"""Rounds or server steps until a reason to stop; everything is on disk before the next begins.

Whether a run has a round at all is found out before anything is written.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any

from airtune.errors import AirtuneError, InfeasibleError
from airtune.federated.context import RoundContext, RoundStart
from airtune.federated.idle import SILENT_CELL
from airtune.federated.pacing.step import run_step
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.records.record import RoundRecord
from airtune.federated.records.run_folder import RunFolder
from airtune.federated.records.stopwatch import Stopwatch
from airtune.federated.round import run_round, start_round


@dataclass(frozen=True)
class StopRule:
    """Reasons to stop before the last round; None never applies."""

    target_loss: float | None = None
    virtual_time_s: float | None = None
    energy_j: float | None = None

    def reason(self, test_loss: float, state: ServerState) -> str | None:
        """A sentence when the run may stop here."""
        if self.target_loss is not None and test_loss <= self.target_loss:
            return f"the test loss {test_loss:.4f} reached the target {self.target_loss:g}"
        if self.virtual_time_s is not None and state.clock.time_s >= self.virtual_time_s:
            return f"the virtual clock passed {self.virtual_time_s:g} s"
        if self.energy_j is not None and state.clock.energy_j >= self.energy_j:
            return f"the clients used {self.energy_j:g} J"
        return None


def run_rounds(
    context: RoundContext,
    state: ServerState,
    folder: RunFolder,
    rounds: int,
    stop: StopRule,
    on_round: Callable[[RoundRecord], None] = lambda record: None,
    first: RoundStart | None = None,
) -> ServerState:
    """Run until `rounds` are done in all, or a stop rule applies; checkpoint every round.

    `first` is the start of the next round where that is planned already.

    The record is on disk before the checkpoint that counts it, so a kill in between costs at
    most the round that is then made again.
    """
    context.watch.take()  # what came before belongs to no round
    while state.rounds_done < rounds and state.stopped is None:
        began = time.perf_counter()
        if context.pacing is None:
            outcome, first = run_round(context, state, first), None
        else:
            outcome = run_step(context, state)
        state = replace(outcome.state, stopped=stop.reason(outcome.evaluation.loss, outcome.state))
        with context.watch.stage("write"), _resumable(folder):
            folder.append_record(outcome.record)
            state = folder.save(state)
        with _resumable(folder):
            folder.append_timing(_timing(state.rounds_done, began, context.watch))
        on_round(outcome.record)
    return state


@contextmanager
def _resumable(folder: RunFolder) -> Iterator[None]:
    """What cannot be written ends the run with the way on: a resumed one makes the round again."""
    try:
        yield
    except AirtuneError as error:
        raise AirtuneError(
            f"{str(error).rstrip('.')}. Every finished round is kept: when that is mended, "
            f"`airtune resume {quote(str(folder.path))}` goes on."
        ) from error


def _timing(round_number: int, began: float, watch: Stopwatch) -> dict[str, Any]:
    """Real seconds of a round, and of its stages."""
    seconds = time.perf_counter() - began
    stages = {name: round(spent, 4) for name, spent in watch.take().items()}
    timing = {"round": round_number, "real_s": round(seconds, 4), "stages": stages}
    if watch.clients:
        timing["clients"], watch.clients = watch.clients, []
    return timing


PLANNED_AT_MOST = 100
"""Rounds with a signal that are planned in vain before a cell is called hopeless."""


def first_start(context: RoundContext, state: ServerState, rounds: int) -> RoundStart:
    """The first round in which a client takes part, planned from the state before round 1.

    Rounds without it before are waited through. Looks at `rounds` rounds, and at a whole trace or
    recording, but plans `PLANNED_AT_MOST` rounds at most. Raises AirtuneError with the planner's
    reasons where there is none; `rounds_done` of `state` is the first round asked about.
    """
    reasons: set[str] = set()
    planned = 0
    first = state.rounds_done
    for index in range(first, first + max(rounds, context.channel.samples or 0)):
        try:
            start = start_round(context, replace(state, rounds_done=index))
        except InfeasibleError as error:
            reasons.add(str(error).rstrip("."))
            planned += 1
        else:
            if start.plan.clients:
                return start
            reasons |= set(start.plan.skipped.values())
            planned += start.plan.message != SILENT_CELL
        if planned >= PLANNED_AT_MOST:
            break
    looked_at = (
        f"None of the first {index - first + 1} rounds has a"
        if index > first
        else f"Round {index + 1} has no"
    )
    raise AirtuneError(
        f"{looked_at} client to schedule ({'; '.join(sorted(reasons)[:3])}): give more bandwidth, "
        "more transmit power or a later deadline."
    )


def notice_of_wait(first: RoundStart, rounds: int) -> list[str]:
    """A sentence where the run begins with rounds in which no client can send."""
    number = first.costs.round_index + 1
    if number == 1:
        return []
    if number > rounds:
        return [
            f"No client can send in any of the {rounds} rounds, the first in round {number}: they "
            "are charged as waiting, and nothing is learned."
        ]
    return [
        f"No client can send before round {number}: the rounds until then are charged as waiting."
    ]
