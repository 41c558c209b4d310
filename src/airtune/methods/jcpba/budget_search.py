"""JCPBA's budget Gamma, searched: how much pruning buys more latency than it costs loss.

A larger budget makes rounds shorter and progress per round smaller. A short run at every candidate
tells both, and the budget with which the virtual time to a common target loss is least wins. The
target is by default the highest of the last losses, which all candidates reach, so nothing is
extrapolated; later in training the best budget may be another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError
from airtune.methods.jcpba.options import JcpbaSection
from airtune.methods.spec import Report
from airtune.methods.trial import ProxyRun, Trials, proxy_config, short_run

BUDGETS = (0.0, 0.1, 0.2, 0.3, 0.5)
PROXY_ROUNDS = 4


@dataclass(frozen=True)
class BudgetTable:
    """The search's answer and its evidence; `best` is the budget."""

    best: float
    target_loss: float
    runs: dict[float, ProxyRun]
    facts: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """What is written: the choice, how it was made, and a row for each budget."""
        return {
            "best_budget": self.best,
            "target_loss": self.target_loss,
            **self.facts,
            "budgets": [
                {
                    "pruning_budget": budget,
                    "time_to_target_s": run.time_to(self.target_loss),
                    "rounds_to_target": run.rounds_to(self.target_loss),
                    "mean_latency_s": run.time_s[-1] / (len(run) - 1),
                    "losses": list(run.losses),
                }
                for budget, run in self.runs.items()
            ],
        }


def decide(
    config: ExperimentConfig, trials: Trials, report: Report
) -> tuple[ExperimentConfig, dict[str, Any]]:
    """The experiment with the fastest budget, and the table."""
    table = search_budget(config, trials, report=report)
    report(f"The pruning budget {table.best:g} is the fastest.")
    section = config.section(JcpbaSection).model_copy(
        update={"pruning_budget": table.best, "budget_search": False}
    )
    return config.with_section(section), table.to_dict()


def search_budget(
    config: ExperimentConfig,
    trials: Trials,
    budgets: Sequence[float] | None = None,
    rounds: int = PROXY_ROUNDS,
    clients: int | None = None,
    target_loss: float | None = None,
    report: Report = lambda sentence: None,
) -> BudgetTable:
    """Run the proxies and choose.

    Args:
        budgets: candidates for Gamma, by default `BUDGETS`.
        clients: a round; by default the whole cohort, since latency depends on who is in it.
        target_loss: by default the highest of the proxies' last losses.
        report: takes a sentence after every proxy.
    """
    budgets = BUDGETS if budgets is None else budgets
    if not budgets or not all(0 <= budget < 1 for budget in budgets):
        raise InputError("--budgets", list(budgets), "numbers from 0 to below 1")
    if len(set(budgets)) < len(budgets):
        raise InputError("--budgets", list(budgets), "a list of different budgets")
    size = clients or config.cohort.size or config.clients.count
    runs: dict[float, ProxyRun] = {}
    for budget in sorted(set(budgets)):
        section = config.section(JcpbaSection).model_copy(update={"pruning_budget": budget})
        proxy = proxy_config(config, rounds, size).with_section(section)
        runs[budget] = short_run(trials(proxy.model_copy(update={"method": "jcpba"})), rounds)
        report(f"budget {budget:g}: test loss {runs[budget].losses[-1]:.4f} after {rounds} rounds")
    if target_loss is None:
        target_loss = max(run.losses[-1] for run in runs.values())
    times = {budget: run.time_to(target_loss) for budget, run in runs.items()}
    reached = {budget: time for budget, time in times.items() if time is not None}
    if not reached:
        least = min(run.losses[-1] for run in runs.values())
        raise InputError(
            "--target-loss",
            target_loss,
            f"at least {least:.4f}, the least that a proxy reached",
            "give the proxies more rounds",
        )
    best = min(reached, key=lambda budget: (reached[budget], budget))
    facts = {"model": config.model, "proxy_rounds": rounds, "proxy_clients": size}
    return BudgetTable(best, target_loss, runs, facts)
