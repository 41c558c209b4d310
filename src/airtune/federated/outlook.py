"""Whether a run has a round at all, asked before anything is written."""

from dataclasses import replace

from airtune.errors import AirtuneError, InfeasibleError
from airtune.federated.context import RoundContext, RoundStart
from airtune.federated.idle import SILENT_CELL
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.round import start_round

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
    """A sentence where the run begins with rounds in which nobody can send."""
    number = first.costs.round_index + 1
    if number == 1:
        return []
    if number > rounds:
        return [
            f"No client can send in any of the {rounds} rounds, the first in round {number}: they "
            "are charged as waiting, and nothing is learned."
        ]
    return [f"No client can send before round {number}: the rounds until then are charged as "
            "waiting."]  # fmt: skip
