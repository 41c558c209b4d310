"""The learning rate where an experiment gives none: by the size of the model and what is trained.

The numbers are published ones for AdamW; docs/running.md has the table with its sources.
"""

from dataclasses import dataclass
from math import inf

from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError
from airtune.quantities import format_quantity
from airtune.workload.architecture import Decoder


@dataclass(frozen=True)
class DefaultRate:
    """Up to so many parameters of the model: rates of LoRA and of full tuning, and their source."""

    most_parameters: float
    lora: float
    full: float
    source: str


_LORA, _QLORA = "Hu et al. 2021, appendix D", "Dettmers et al. 2023, appendix B"
SMALLEST = DefaultRate(2e6, 0.0125, 0.0125, "the built-in model, measured")
DEFAULT_RATES = (
    SMALLEST,
    DefaultRate(300e6, 5e-4, 5e-5, f"LoRA: RoBERTa base, {_LORA}; full: transformers' Trainer"),
    DefaultRate(10e9, 2e-4, 2e-5, f"LoRA: GPT-2, {_LORA}, 7B, {_QLORA}; full: Alpaca 7B"),
    DefaultRate(20e9, 2e-4, 1e-5, f"LoRA: 13B, {_QLORA}; full: Alpaca 13B"),
    DefaultRate(inf, 1e-4, 1e-5, f"LoRA: 33B and 65B, {_QLORA}; full: Alpaca 13B"),
)
"""Ascending by size."""


def learning_rate(config: ExperimentConfig, architecture: Decoder) -> float:
    """The rate that the experiment gives, or the default of its model.

    Raises InputError where there is none: published rates of SGD differ by orders of magnitude.
    """
    training = config.training
    if training.learning_rate is not None:
        return training.learning_rate
    row = default_row(architecture)
    if training.optimizer == "sgd" and row is not SMALLEST:
        raise InputError(
            "training.learning_rate",
            None,
            "given with training.optimizer: sgd",
            f"only models of at most {SMALLEST.most_parameters:,.0f} parameters have a default",
        )
    return row.full if config.adapter.kind == "full" else row.lora


def default_row(architecture: Decoder) -> DefaultRate:
    """The row of the table for a model."""
    return next(row for row in DEFAULT_RATES if architecture.parameters <= row.most_parameters)


def with_learning_rate(config: ExperimentConfig, architecture: Decoder) -> ExperimentConfig:
    """The experiment with the rate that it trains at, as its run folder records it."""
    rate = learning_rate(config, architecture)
    training = config.training.model_copy(update={"learning_rate": rate})
    return config.model_copy(update={"training": training})


def rate_source(given: ExperimentConfig, architecture: Decoder) -> str | None:
    """Where the default comes from; None where the experiment gives the rate itself."""
    if given.training.learning_rate is not None:
        return None
    row = default_row(architecture)
    if row is DEFAULT_RATES[-1]:
        return f"default of larger models ({row.source})"
    most = format_quantity(row.most_parameters, "").strip()
    return f"default up to {most} parameters ({row.source})"
