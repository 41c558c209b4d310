"""One server step without synchronous rounds: begin, wait for updates, merge, evaluate, record.

State in, state and record out, as in a round, whose parts it uses. Every task that begins is under
way until it ends: its update is merged, dropped because it is too old, or lost because its client
fell silent.
"""

from dataclasses import replace

from airtune.federated.charging.charge import charge_round
from airtune.federated.context import RoundContext
from airtune.federated.pacing.clock import until_step
from airtune.federated.pacing.landing import Landed
from airtune.federated.pacing.starting import Begun, begin_tasks
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.server_step import Arrivals, RoundOutcome, server_step


def run_step(context: RoundContext, state: ServerState) -> RoundOutcome:
    """Run one server step to its record."""
    assert context.pacing is not None, "synchronous rounds are run_round's"
    begun = begin_tasks(context, context.pacing, state)
    if not begun.under_way.flights:
        return _idle_step(context, begun)
    flights = begun.under_way.flights
    elapsed = until_step(context, context.pacing, state.clock.time_s, flights)
    landed = Landed.of(context, begun, elapsed.ended)
    settled = {
        "virtual_time_s": elapsed.time_s,
        "started": [plan.client for plan in begun.start.plan.clients],
        "in_flight": len(elapsed.flights),
    }
    if not begun.start.plan.clients:
        settled["planned_latency_s"] = 0.0
    outcome = server_step(context, begun.state, landed.arrivals(elapsed.latency_s, settled))
    under_way = replace(begun.under_way, flights=elapsed.flights).without(elapsed.ended.keys())
    following = replace(
        outcome.state,
        clock=replace(outcome.state.clock, time_s=elapsed.time_s),
        carried=landed.carried,
        in_flight=under_way,
    )
    return replace(outcome, state=following)


def _idle_step(context: RoundContext, begun: Begun) -> RoundOutcome:
    """No task is under way, and none can begin: the waiting of an idle round."""
    charged = charge_round(context, begun.start, {})
    settled = {"started": [], "in_flight": 0}
    arrivals = Arrivals(begun.start, charged, {}, [], {}, {}, {}, settled)
    outcome = server_step(context, begun.state, arrivals)
    return replace(outcome, state=replace(outcome.state, in_flight=begun.under_way))
