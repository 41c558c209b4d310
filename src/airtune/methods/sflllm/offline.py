"""What sflllm decides once, before round 1: the LoRA rank, or local steps and rounds.

A rank cannot change in the middle of a run. So it is chosen together with a split point on the
channel without fading, by the same solver as in every round, from the rounds E(r) that each rank
needs. FedsLLM's count (Zhao et al., arXiv 2407.09250) takes the local accuracy instead: eta
costs `v log2(1/eta)` local steps and leaves `a / (1 - eta)` rounds.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from airtune.allocation.local_accuracy import LocalTraining, solve_local_accuracy
from airtune.allocation.split.problem import SplitTraining
from airtune.config.experiment import ExperimentConfig
from airtune.errors import AirtuneError, InputError
from airtune.federated.idle import first_views
from airtune.federated.observation import planning_view
from airtune.federated.splitting.round_problem import SplitProblem, within_reach
from airtune.methods.sflllm.options import SflllmSection
from airtune.methods.sflllm.planner import SflllmPlanner
from airtune.methods.sflllm.problem import SOLVERS, SflllmProblem
from airtune.methods.sflllm.rounds_table import read_rounds
from airtune.methods.spec import Report
from airtune.methods.trial import Trial, Trials
from airtune.quantities import format_duration
from airtune.seeds import integer_seed
from airtune.wireless.attenuation import Clients
from airtune.wireless.channel import Channel
from airtune.wireless.state import Observation
from airtune.workload.adapter_shape import adapter_tensors

Decision = tuple[ExperimentConfig, dict[str, Any]]


def _unfaded(channel: Channel, clients: int) -> Channel:
    """The same channel with small-scale fading at its mean."""

    def observe(round_index: int, asked: Clients) -> Observation:
        seen = channel.observe(round_index, asked)
        return Observation(seen.truth.without_fading(), seen.estimate.without_fading())

    return Channel(clients, observe)


def choose_rank(config: ExperimentConfig, trials: Trials, report: Report) -> Decision:
    """The experiment at the rank of least total delay, and the evidence.

    Raises InputError for a table, or a rank in it, that the models do not allow.
    """
    section = config.section(SflllmSection)
    assert section.rounds_table is not None
    table = read_rounds(section.rounds_table)
    world, solver = trials(config), section.solver
    planner = _planner(world)
    by_rank: dict[int, SplitTraining] = {}
    for rank, rounds in table.rounds.items():
        problem = _problem(world, rank)
        training = problem.training(planner.common_points(problem))
        priced = tuple(replace(c, rounds=rounds) for c in training.candidates)
        by_rank[rank] = replace(training, candidates=priced)
    everything = tuple(c for training in by_rank.values() for c in training.candidates)
    whole = replace(next(iter(by_rank.values())), candidates=everything)
    seed = integer_seed(config.seed, "sflllm baselines")
    solution = SOLVERS[solver](SflllmProblem(whole, seed))
    if solution.plan is None:
        raise AirtuneError(f"No rank can be chosen: {solution.message}")
    chosen = everything[solution.plan.candidate]
    report(
        f"Rank {chosen.rank} is chosen by solver {solver}: {chosen.rounds:.3g} rounds to the "
        f"target, {format_duration(solution.objective or 0.0)} in all, split after block "
        f"{chosen.split_point}."
    )
    evidence = {
        "rank": chosen.rank,
        "split_point": chosen.split_point,
        "solver": solver,
        "total_delay_s": solution.objective,
        "lower_bound_s": solution.lower_bound,
        "rounds_fit_error": table.fit_error,
        "ranks": [_row(rank, training) for rank, training in by_rank.items()],
    }
    adapter = config.adapter.model_copy(update={"rank": chosen.rank})
    settled = section.model_copy(update={"rounds_table": None})
    return config.model_copy(update={"adapter": adapter}).with_section(settled), evidence


def _row(rank: int, training: SplitTraining) -> dict[str, Any]:
    """The best that this rank alone allows."""
    best = SOLVERS["joint"](SflllmProblem(training))
    assert best.plan is not None
    candidate = training.candidates[best.plan.candidate]
    return {
        "rank": rank,
        "rounds": candidate.rounds,
        "split_point": candidate.split_point,
        "round_s": best.objective / candidate.rounds if best.objective else None,
        "total_delay_s": best.objective,
    }


def count_by_accuracy(config: ExperimentConfig, trials: Trials, report: Report) -> Decision:
    """The experiment with the local steps and rounds of FedsLLM's optimal local accuracy.

    A local step lasts what the planned split step lasts, and the payload is the client half's
    adapter; bandwidths are FDMA shares, as in the published problem. Raises InputError where one of
    a and v is missing.
    """
    section = config.section(SflllmSection)
    a, v = section.accuracy_a, section.accuracy_v
    if a is None or v is None:
        missing = "sflllm.accuracy_a" if a is None else "sflllm.accuracy_v"
        raise InputError(missing, "missing", "a number beside the other one")
    world = trials(config)
    problem = _problem(world, config.adapter.rank)
    plan = _planner(world).plan(problem.view, {})
    timeline = problem.timeline(plan.clients)
    once_s = float(timeline.of("adapter").max() + timeline.of("broadcast").max())
    step_s = (plan.predicted_latency_s - once_s) / problem.steps
    costs = problem.view.costs
    bits = np.array([costs.air_bits(entry) for entry in plan.clients])
    solution = solve_local_accuracy(
        LocalTraining(
            links=problem.view.uplink,
            compute_delay_s=np.full(len(bits), step_s),
            payload_bits=bits,
            bandwidth_hz=config.cell.bandwidth_hz,
            a=a,
            v=v,
            names=problem.view.names,
            fixed_delay_s=costs.transfer.lead_s(bits),
        )
    )
    if solution.plan is None:
        raise AirtuneError(f"No local accuracy can be chosen: {solution.message}")
    eta = solution.plan.local_accuracy
    steps = max(1, math.ceil(v * math.log2(1 / eta)))
    rounds = max(1, math.ceil(a / (1 - eta)))
    report(f"Local accuracy {eta:.3g}: {steps} local steps in each of {rounds} rounds.")
    evidence = {
        "local_accuracy": eta,
        "local_steps": steps,
        "rounds": rounds,
        "step_s": step_s,
        "total_delay_s": solution.plan.total_delay_s,
        "lower_bound_s": solution.lower_bound,
    }
    training = config.training.model_copy(update={"local_steps": steps})
    settled = section.model_copy(update={"accuracy_a": None, "accuracy_v": None})
    changed = config.model_copy(update={"training": training, "rounds": rounds})
    return changed.with_section(settled), evidence


def _planner(world: Trial) -> SflllmPlanner:
    planner = world.context.method.planner
    if not isinstance(planner, SflllmPlanner):
        raise InputError("planner", world.config.planner, "that of sflllm for its offline stages")
    return planner


def _problem(world: Trial, rank: int) -> SplitProblem:
    """The first round with a signal, without fading; the rank need not be the adapter's."""
    context = world.context
    adapter = replace(world.work.adapter, rank=rank)
    adapter.adaptation(world.architecture)
    work = replace(world.work, adapter=adapter)
    assert context.method.split is not None, "offline stages of sflllm belong to a split"
    shapes = adapter_tensors(work.architecture, adapter)
    costs = replace(context.costs, work=work, shapes=shapes)
    channel = _unfaded(context.channel, len(context.names))
    seen = replace(context, costs=costs, rank=rank, channel=channel)
    (view,) = first_views(partial(planning_view, seen), 1)
    kept, _ = within_reach(view)
    return SplitProblem(view, kept)
