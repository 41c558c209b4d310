"""What a run would look like before it begins (`--dry-run`), and how long the whole may take."""

import time
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from airtune.config.experiment import ExperimentConfig
from airtune.experiment.learning_rate import rate_source
from airtune.experiment.world import World
from airtune.federated.backends.backend import InProcess
from airtune.federated.charging.charge import expected_charges
from airtune.federated.context import RoundStart
from airtune.federated.loop import first_start, notice_of_wait
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.round import tasks_of
from airtune.round_plan import MAIN_SERVER
from airtune.tuning.base_model import usable_cores

MOST_TIMED_STEPS = 8
"""Local steps that are really made to tell the pace."""


def preview(world: World, given: ExperimentConfig) -> dict[str, Any]:
    """The first round with a client as it would be charged; trains no more than a step or two.

    `given` is the experiment as the user has it, `world.config` as it is resolved.
    """
    state, context, config = world.unmeasured_start(), world.context, world.config
    start = first_start(context, state, config.rounds)
    places = np.hypot(*start.truth.position_m[:, :2].T)
    plans = {plan.client: plan for plan in start.plan.clients}
    rows = []
    for charge in expected_charges(context, start):
        plan = plans[charge.client]
        rows.append(
            {
                "client": plan.client,
                "name": f"client {plan.client}",
                "device": world.devices[plan.client].name,
                "distance_m": None if np.isnan(places[plan.client]) else float(places[plan.client]),
                "rows": world.shards.rows(plan.client),
                "memory_bytes": start.costs.memory_bytes(plan),
                "device_memory_bytes": world.devices[plan.client].memory_bytes,
                "bandwidth_hz": plan.bandwidth_hz,
                "rate_bps": charge.rate_bps,
                "compute_s": charge.compute_s,
                "upload_s": charge.upload_s,
                "uplink_bits": charge.uplink_bits,
            }
        )
    return {
        "model": config.model,
        "charge_as": config.charge_as,
        "parameters": world.architecture.parameters,
        "adapter_parameters": sum(prod(shape) for shape in world.side.shapes.values()),
        "learning_rate": config.training.learning_rate,
        "learning_rate_source": rate_source(given, world.architecture),
        "charged_parameters": world.work.of(1, 1).parameters,
        "charged_adapter_parameters": world.work.of(1, 1).adapter_parameters,
        "train_rows": world.shards.train_rows,
        "partition_redraws": world.shards.redraws,
        "test_rows": len(world.tests.encoded),
        "uplink_bits": rows[0]["uplink_bits"] if rows else 0,
        "latency_s": start.plan.predicted_latency_s,
        "lower_bound_s": start.plan.lower_bound_s,
        "message": start.plan.message,
        "rounds": config.rounds,
        "virtual_time_s": None
        if world.context.pacing
        else start.plan.predicted_latency_s * config.rounds,
        "real_s": _real_seconds(world, state, start),
        "skipped": {str(client): reason for client, reason in start.plan.skipped.items()},
        "clients": rows,
        "notices": [
            *world.notices,
            *notice_of_wait(start, config.rounds),
            *_pacing_notice(config),
        ],
    }


def _pacing_notice(config: ExperimentConfig) -> list[str]:
    """What the preview of a first round says of server steps that are none."""
    if config.pacing.kind == "synchronous":
        return []
    return [
        f"The first tasks are shown as planned; with pacing.kind: {config.pacing.kind} the "
        f"{config.rounds} steps that follow take as long as arrivals make them."
    ]


def _real_seconds(world: World, state: ServerState, start: RoundStart) -> float:
    """Rounds x clients x steps at the pace of one client's first steps, evaluation included."""
    context = world.context
    cohort = len(start.plan.clients)
    # Also where all of them will fall silent in this round.
    start = replace(start, silent=frozenset())
    tasks = tasks_of(context, replace(state, rounds_done=start.costs.round_index), start)
    # One client, and the main server where there is one.
    sample = [task for task in tasks if task.client in (tasks[0].client, MAIN_SERVER)]
    steps = min(world.config.training.local_steps, MOST_TIMED_STEPS)
    batches = world.side.batches
    side = replace(world.side, batches=lambda client, index: batches(client, index)[:steps])
    began = time.perf_counter()
    list(InProcess(side).run(sample))
    train_s = (time.perf_counter() - began) * world.config.training.local_steps / steps
    if world.config.workers:
        train_s /= min(usable_cores(), cohort)
    began = time.perf_counter()
    world.evaluate(state.adapter)
    evaluate_s = time.perf_counter() - began
    return world.config.rounds * (cohort * train_s + evaluate_s)
