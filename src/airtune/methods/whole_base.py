"""What methods that merge products into the base have in common."""

from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError


def refuse_coarse_base(method: str, config: ExperimentConfig) -> None:
    """InputError for a base whose numbers could not hold what is merged into them."""
    if config.dtype != "fp32":
        raise InputError(
            "dtype",
            config.dtype,
            f"fp32 with {method}, which merges small changes into the base",
            "coarser numbers would round them away",
        )
