"""One round: observe channel, plan, broadcast, tune, encode, charge, decode, aggregate, evaluate.

State in, state and record out. Nothing here reads a clock of the real world, writes a file, or
knows which method runs. (`watch` is told which stage begins; nothing that it measures comes back.)
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from airtune.errors import InfeasibleError
from airtune.federated.backends.backend import ClientReport, ClientTask, carried_over, reported
from airtune.federated.charging.charge import charge_round
from airtune.federated.checks.capabilities import check_decisions
from airtune.federated.checks.feasibility import check_plan
from airtune.federated.checks.guard import (
    LESS,
    OTHER_FORMAT,
    asked,
    check_finite,
    check_tensors,
    party,
    plain_plan,
)
from airtune.federated.context import RoundContext, RoundStart, draw_dropouts
from airtune.federated.idle import (
    NO_SIGNAL,
    SILENT_CELL,
    idle_plan,
    idle_seconds,
    no_client_can_send,
    without_unreachable,
)
from airtune.federated.observation import planning_view
from airtune.federated.records.carried import CarriedStates, with_fresh
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.server_step import Arrivals, RoundOutcome, server_step
from airtune.federated.view import PlanningView
from airtune.round_plan import MAIN_SERVER, Plan
from airtune.tuning.base_change import changes_of
from airtune.update.codec import Codec
from airtune.update.server import Update
from airtune.update.weighting import Occasion, weighed


def start_round(context: RoundContext, state: ServerState) -> RoundStart:
    """Draw the cohort, observe the channel and plan; what `--dry-run` shows of a round.

    The plan has no clients where none can send. Raises InfeasibleError as the planner does.
    """
    view = planning_view(context, state.rounds_done, state.server, state.planner)
    if no_client_can_send(view):
        return _round_start(context, view, idle_plan(view, NO_SIGNAL, SILENT_CELL))
    planner = context.method.planner
    with asked("planner", planner, view.round_index):
        plan = plain_plan(planner.plan(view, state.planner))
        check_decisions(context.method, plan, context.rank, view.round_index + 1)
        check_plan(view, plan, context.method.split)
    return _round_start(context, view, plan)


def start_or_wait(context: RoundContext, state: ServerState) -> RoundStart:
    """`start_round`; a round for which there is no plan waits for the next one.

    A cohort or a channel that no plan can serve may be followed by one that has a plan.
    """
    try:
        return start_round(context, state)
    except InfeasibleError as error:
        return waiting_round(context, state, error)


def waiting_round(context: RoundContext, state: ServerState, error: InfeasibleError) -> RoundStart:
    """The round for which there is no plan, for this reason."""
    view = planning_view(context, state.rounds_done, state.server, state.planner)
    return _round_start(context, view, idle_plan(view, str(error).rstrip("."), str(error)))


def _round_start(context: RoundContext, view: PlanningView, plan: Plan) -> RoundStart:
    """The plan on the true channel, without clients that no broadcast or update would reach."""
    index = view.round_index
    truth = context.channel.observe(index, view.cohort).truth
    if context.deadline_s is None and plan.clients:
        plan = without_unreachable(context, view.costs, truth, plan)
    idle_s = 0.0
    if not plan.clients:
        idle_s = idle_seconds(context, view)
        reasons = {int(c): plan.skipped.get(int(c), plan.message) for c in view.cohort}
        plan = replace(plan, skipped=reasons, predicted_latency_s=idle_s)
    silent = draw_dropouts(context.cohort, view.cohort, context.seed, index)
    inclusion = {}
    if view.draw is not None:
        pairs = zip(view.draw.cohort, view.draw.inclusion, strict=True)
        inclusion = {int(client): float(chance) for client, chance in pairs}
    return RoundStart(view.cohort, silent, truth, view.costs, plan, idle_s, inclusion)


def tasks_of(context: RoundContext, state: ServerState, start: RoundStart) -> list[ClientTask]:
    """Tasks with the encoded broadcast: clients in ascending order, then the main server, if any.

    The main server has the adapter itself, so what it is given is never charged.
    """
    downlink, plan = start.costs.model.downlink, start.plan
    if not plan.clients:
        return []
    with asked("downlink codec", downlink, state.rounds_done):
        broadcast = downlink.encode(state.adapter, plan.broadcast)
    parties = [(entry, broadcast) for entry in plan.clients if entry.client not in start.silent]
    if parties and plan.main_server is not None:
        parties.append((plan.main_server, downlink.encode(state.adapter, plan.main_server)))
    return [
        ClientTask(
            state.rounds_done,
            entry.client,
            entry,
            received,
            dict(state.carried.get(entry.client, {})),
            weight=0.0 if entry.client == MAIN_SERVER else float(context.weights[entry.client]),
            base=changes_of(state.adapter),
        )
        for entry, received in parties
    ]


def run_round(
    context: RoundContext, state: ServerState, start: RoundStart | None = None
) -> RoundOutcome:
    """Run one round to its record; `start` where the round is planned already."""
    stage = context.watch.stage
    with stage("plan"):
        start = start or start_or_wait(context, state)
    with stage("encode"):
        tasks = tasks_of(context, state, start)
    with stage("tune"):
        reports = {report.client: report for report in context.backend.run(tasks)} if tasks else {}
    with stage("plan"):
        charged = charge_round(context, start, reports)
    arrived = [task for task in tasks if task.client in charged.in_time]
    with stage("encode"):
        received, codec = bound_codec(context, state, tasks, start.plan)
        updates = decoded(context, codec, arrived, reports)
    losses = {update.client: reports[update.client].train_loss for update in updates}
    occasion = Occasion(state.rounds_done, context.weights, losses, start.inclusion)
    updates = weighed_updates(context, updates, occasion)
    said = reported(codec, arrived, reports, context.shapes)
    plans = {task.client: task.plan for task in arrived}
    carried = kept_by_clients(context, state, codec, tasks, reports, charged.in_time)
    arrivals = Arrivals(start, charged, reports, updates, received, plans, said, carried=carried)
    outcome = server_step(context, state, arrivals)
    return replace(outcome, state=replace(outcome.state, carried=carried))


def kept_by_clients(
    context: RoundContext,
    state: ServerState,
    codec: Codec,
    tasks: Sequence[ClientTask],
    reports: Mapping[int, ClientReport],
    in_time: Collection[int],
) -> CarriedStates:
    """What clients keep for their next task; an update that came too late goes back to them."""
    kept = carried_over(codec, tasks, reports, in_time, context.shapes)
    for client, carried in kept.items():
        check_finite(carried, f"what {party(client)} keeps", state.rounds_done, LESS)
    return with_fresh(state.carried, kept)


def bound_codec(
    context: RoundContext, state: ServerState, tasks: Sequence[ClientTask], plan: Plan
) -> tuple[Mapping[str, Tensor], Codec]:
    """The broadcast as clients decode it, and the codec bound to it; nothing if all are silent.

    Clients that keep the model have the server's.
    """
    method = context.method
    if not tasks:
        return {}, method.codec
    if method.downlink.keeps_model:
        return state.adapter, method.codec.in_round(state.adapter)
    received = method.downlink.decode(tasks[0].broadcast, context.shapes, plan.broadcast)
    return received, method.codec.in_round(received)


def decoded(
    context: RoundContext,
    codec: Codec,
    tasks: Sequence[ClientTask],
    reports: Mapping[int, ClientReport],
) -> list[Update]:
    """What arrived in time, decoded, in the order of the tasks."""
    updates = []
    for task in tasks:
        with asked("codec", codec, task.round_index, task.client):
            payload, plan = reports[task.client].payload, task.plan
            change = codec.decode(payload, context.shapes, plan)
            check_tensors(change, context.shapes, part=context.method.split is not None)
            trained, sent = codec.trained(plan), codec.sent(payload, context.shapes, plan)
            on = codec.coefficients(payload, context.shapes, plan)
        what = f"the update of {party(task.client)}, as it arrived in its number format,"
        check_finite(change, what, task.round_index, OTHER_FORMAT)
        updates.append(Update(task.client, task.weight, change, trained, sent, coefficients=on))
    return updates


def weighed_updates(
    context: RoundContext, updates: Sequence[Update], occasion: Occasion
) -> list[Update]:
    """The updates with the shares that the method's weighting gives them, if it has one."""
    with asked("weighting", context.method.weighting, occasion.step_index):
        return weighed(context.method.weighting, updates, occasion)
