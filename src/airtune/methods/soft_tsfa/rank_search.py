"""TSFA's offline stage: the structural LoRA rank, from short runs at every candidate.

`J(r) = truncated + dropped + covariance`, shares of ||dW||^2 (`allocation/sparsity/`):
`truncated` from the spectrum of clients' updates at the largest candidate, `covariance` and the
energies of the ranks from a short run at each rank that sends everything, `dropped` from those
energies with as many ranks as the median channel of the first rounds lets every client send within
the latency target. The same runs give the rounds E(r) to a target loss, which SflLLM's
plan needs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from airtune.allocation.sparsity.rank_choice import RankChoice, RankMeasurement, choose_rank
from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError
from airtune.federated.idle import first_views
from airtune.federated.method import Exchange
from airtune.federated.observation import planning_view
from airtune.federated.view import PlanningView
from airtune.methods.soft_tsfa.options import SoftTsfaSection
from airtune.methods.soft_tsfa.planner import START_ROUNDS, TsfaPlanner
from airtune.methods.spec import Report
from airtune.methods.trial import ProxyRun, Trial, Trials, proxy_config, short_run
from airtune.quantities import FloatArray
from airtune.update.means import factor_covariance
from airtune.update.rank_sparse import change_importance, energies
from airtune.update.svd import change_spectrum
from airtune.update.weighting import normalised, relative_shares
from airtune.workload.adapter_shape import AdapterShape, adapter_tensors
from airtune.workload.architecture import load_architecture

RANKS = (1, 2, 4, 8, 16, 32)
PROXY_ROUNDS = 3
PROXY_CLIENTS = 4


@dataclass
class Observed:
    """Energies seen in one proxy run, summed over rounds and clients with the clients' weights."""

    rank: int
    spectrum: FloatArray = field(default_factory=lambda: np.zeros(1))
    ranks: FloatArray = field(default_factory=lambda: np.zeros(1))
    covariance: float = 0.0
    total: float = 0.0

    def watch(self, exchange: Exchange) -> None:
        """Add one round."""
        shares = normalised(relative_shares(exchange.updates)[0])
        for update, share in zip(exchange.updates, shares, strict=True):
            spectrum = change_spectrum(exchange.start, update.change).numpy()
            terms = energies(change_importance(exchange.start, update.change))
            table = torch.stack([values.double() for values in terms.values()])
            falling = table.sort(dim=1, descending=True).values.sum(0).numpy()
            self.spectrum = self.spectrum + share * spectrum
            self.ranks = self.ranks + share * falling
            self.total += share * float(spectrum.sum())
        self.covariance += factor_covariance(exchange.updates) ** 2

    def truncated(self, rank: int) -> float:
        """Share of the energy that the best update of this rank leaves out."""
        return float(self.spectrum[rank:].sum() / self.total)


@dataclass(frozen=True)
class RankTable:
    """The search's answer and its evidence."""

    choice: RankChoice
    latency_target_s: float
    target_loss: float
    runs: dict[int, ProxyRun]
    facts: dict[str, Any]

    @property
    def best(self) -> int:
        """The rank of least J."""
        return self.choice.best.rank

    def to_dict(self) -> dict[str, Any]:
        """What is written: the choice, how it was made, and a row for each rank."""
        fitted, error = fit_rounds(
            [self.runs[score.rank].rounds_to(self.target_loss) for score in self.choice.scores],
            [score.rank for score in self.choice.scores],
        )
        rows = []
        for score in self.choice.scores:
            run = self.runs[score.rank]
            rows.append(
                {
                    "rank": score.rank,
                    "j": score.total,
                    "truncated": score.truncated,
                    "dropped": score.dropped,
                    "covariance": score.covariance,
                    "kept_ranks": score.kept,
                    "in_time": score.in_time,
                    "rounds_to_target": run.rounds_to(self.target_loss),
                    "rounds_fitted": None if fitted is None else fitted(score.rank),
                    "losses": list(run.losses),
                }
            )
        return {
            "best_rank": self.best,
            "latency_target_s": self.latency_target_s,
            "target_loss": self.target_loss,
            "rounds_fit": "E(r) = a + b / r, least squares",
            "rounds_fit_error": error,
            **self.facts,
            "ranks": rows,
        }


def fit_rounds(
    rounds: Sequence[float | None], ranks: Sequence[int]
) -> tuple[Callable[[int], float] | None, float | None]:
    """`E(r) = a + b / r` through the measured ranks, and its root mean square error over the mean.

    None where fewer than three ranks reached the target.
    """
    known = [(1.0 / r, e) for r, e in zip(ranks, rounds, strict=True) if e is not None]
    if len(known) < 3:
        return None, None
    inverse, measured = np.array(known).T
    design = np.stack([np.ones_like(inverse), inverse], axis=1)
    a, b = np.linalg.lstsq(design, measured, rcond=None)[0]
    error = float(np.sqrt(np.mean((design @ [a, b] - measured) ** 2)) / measured.mean())
    return (lambda rank: float(a + b / rank)), error


def decide(
    config: ExperimentConfig, trials: Trials, report: Report
) -> tuple[ExperimentConfig, dict[str, Any]]:
    """The experiment at the rank of least J, and the table."""
    table = search_ranks(config, trials, report=report)
    report(f"Rank {table.best} has the least J.")
    section = config.section(SoftTsfaSection).model_copy(
        update={"rank_search": False, "truncated_share": table.choice.best.truncated}
    )
    adapter = config.adapter.model_copy(update={"rank": table.best})
    return config.model_copy(update={"adapter": adapter}).with_section(section), table.to_dict()


def search_ranks(
    config: ExperimentConfig,
    trials: Trials,
    ranks: Sequence[int] | None = None,
    rounds: int = PROXY_ROUNDS,
    clients: int = PROXY_CLIENTS,
    target_loss: float | None = None,
    report: Report = lambda sentence: None,
) -> RankTable:
    """Run the proxies and choose; the experiment's own method does not matter.

    Args:
        ranks: candidates, by default those of `RANKS` that no adapted layer is too narrow for.
        target_loss: of E(r); by default the highest of the proxies' last losses, which all reach.
        report: takes a sentence after every proxy.
    """
    ranks = _default_ranks(config) if ranks is None else ranks
    if not ranks or min(ranks) < 1:
        raise InputError("--ranks", list(ranks), "whole numbers of at least 1")
    if len(set(ranks)) < len(ranks):
        raise InputError("--ranks", list(ranks), "a list of different ranks")
    runs: dict[int, ProxyRun] = {}
    seen: dict[int, Observed] = {}
    worlds: dict[int, Trial] = {}
    for rank in sorted(set(ranks)):
        worlds[rank] = trials(_proxy(config, rank, rounds, clients))
        seen[rank] = Observed(rank)
        runs[rank] = short_run(worlds[rank], rounds, seen[rank].watch)
        report(f"rank {rank}: test loss {runs[rank].losses[-1]:.4f} after {rounds} rounds")
    target_s, view = _target(worlds, config)
    reference = seen[max(seen)]
    measured = [_measured(seen[r], reference, worlds[r], view.round_index) for r in runs]
    choice = choose_rank(measured, view.uplink, view.bandwidth_hz, target_s)
    if target_loss is None:
        target_loss = max(run.losses[-1] for run in runs.values())
    facts = {
        "model": config.model,
        "proxy_rounds": rounds,
        "proxy_clients": len(view.cohort),
        "channel": f"of round {view.round_index + 1}",
    }
    return RankTable(choice, target_s, target_loss, runs, facts)


def _default_ranks(config: ExperimentConfig) -> list[int]:
    architecture = load_architecture(config.model)
    targets = config.adapter.target_modules
    modules = targets if isinstance(targets, str) else tuple(targets)
    tensors = adapter_tensors(architecture, AdapterShape(1, modules)).values()
    narrowest = min(max(shape) for shape in tensors)
    return [rank for rank in RANKS if rank <= narrowest]


def _proxy(config: ExperimentConfig, rank: int, rounds: int, clients: int) -> ExperimentConfig:
    """A run of near-orthogonal factors at this rank that sends everything."""
    section = config.section(SoftTsfaSection).model_copy(
        update={
            "sparsifier": "dense",
            "selection": "per-layer",
            "error_feedback": False,
            "merge": "mean",
            # A server's moments would belong to factors that the gauge replaces.
            **({} if config.server.optimizer == "none" else {"orthogonalise": "none"}),
        }
    )
    proxy = proxy_config(config, rounds, clients).with_section(section)
    return proxy.model_copy(
        update={
            "method": "soft_tsfa",
            "adapter": config.adapter.model_copy(update={"rank": rank, "start": None}),
            **dict.fromkeys(("planner", "tuner", "codec", "aggregator")),
        }
    )


def _planner(world: Trial) -> TsfaPlanner:
    planner = world.context.method.planner
    assert isinstance(planner, TsfaPlanner)
    return planner


def _target(worlds: dict[int, Trial], config: ExperimentConfig) -> tuple[float, PlanningView]:
    """The latency target, and the median channel of the first rounds by the dense latency.

    A target that is derived is that of the candidate nearest to the experiment's own rank.
    """
    nearest = min(worlds, key=lambda rank: (abs(rank - config.adapter.rank), rank))
    world = worlds[nearest]
    planner = _planner(world)
    views = first_views(partial(planning_view, world.context), START_ROUNDS)
    state = planner.initial_state()
    latency = [planner.plan(view, state).predicted_latency_s for view in views]
    middle = int(np.argsort(latency)[len(latency) // 2])
    assert planner.latency_target_s is not None
    return planner.latency_target_s, views[middle]


def _measured(
    seen: Observed, reference: Observed, world: Trial, round_index: int
) -> RankMeasurement:
    """One rank's evidence as the choice needs it: shares of ||dW||^2."""
    planner = _planner(world)
    problem = planner.problem(planning_view(world.context, round_index), planner.initial_state())
    truncated = reference.truncated(seen.rank)
    ranks = seen.ranks / seen.ranks.sum() * (1.0 - truncated)
    return RankMeasurement(
        seen.rank,
        truncated,
        ranks,
        seen.covariance / seen.total,
        float(problem.rank_payload_bits.max()),
        problem.compute_delay_s,
        float(problem.fixed_payload_bits.max()),
    )
