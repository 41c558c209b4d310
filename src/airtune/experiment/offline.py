"""Offline stages that a run does by itself before round 1, where the experiment asks for them."""

from collections.abc import Callable
from typing import Any

from airtune.config.experiment import ExperimentConfig
from airtune.experiment.budget_search import search_budget
from airtune.experiment.rank_search import search_ranks
from airtune.experiment.split_offline import choose_rank, count_by_accuracy

Evidence = dict[str, dict[str, Any]]


def offline_stages(
    config: ExperimentConfig, tell: Callable[[str], None]
) -> tuple[ExperimentConfig, Evidence]:
    """The experiment with what was searched put in, and the tables by file name.

    The switches are off in the answer, so that a resumed run does not search again.
    """
    evidence: Evidence = {}
    if config.method == "soft_tsfa" and config.soft_tsfa.rank_search:
        ranks = search_ranks(config, tell=tell)
        tell(f"Rank {ranks.best_rank} has the least J.")
        evidence["rank-search.json"] = ranks.to_dict()
        config = config.model_copy(
            update={
                "adapter": config.adapter.model_copy(update={"rank": ranks.best_rank}),
                "soft_tsfa": config.soft_tsfa.model_copy(
                    update={
                        "rank_search": False,
                        "truncated_share": ranks.choice.best.truncated,
                    }
                ),
            }
        )
    if config.method == "sflllm" and config.sflllm.rounds_table is not None:
        config, evidence["rank-choice.json"] = choose_rank(config, tell)
    counted = (config.sflllm.accuracy_a, config.sflllm.accuracy_v)
    if config.method == "sflllm" and counted != (None, None):
        config, evidence["local-accuracy.json"] = count_by_accuracy(config, tell)
    if config.method == "jcpba" and config.jcpba.budget_search:
        budgets = search_budget(config, tell=tell)
        tell(f"The pruning budget {budgets.best_budget:g} is the fastest.")
        evidence["budget-search.json"] = budgets.to_dict()
        section = config.jcpba.model_copy(
            update={"pruning_budget": budgets.best_budget, "budget_search": False}
        )
        config = config.model_copy(update={"jcpba": section})
    return config, evidence
