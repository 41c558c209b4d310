"""flora, described."""

from airtune.config.experiment import ExperimentConfig
from airtune.methods.flora.options import FloraSection
from airtune.methods.flora.recorded import Measured
from airtune.methods.spec import Lazy, MethodSpec


def _without_moments(config: ExperimentConfig) -> ExperimentConfig:
    """Moments belong to factors that every round replaces, so no client keeps them."""
    training = config.training.model_copy(update={"keep_optimizer": False})
    return config.model_copy(update={"training": training})


FLORA = MethodSpec(
    name="flora",
    title="clients' LoRA products, stacked and merged into the base",
    references=("Wang et al., arXiv 2409.05976",),
    options=FloraSection,
    compose=Lazy("airtune.methods.flora.compose:compose"),
    part_options={"planner": ("bandwidth", "rank_min"), "codec": ("uplink_dtype",)},
    prepare=_without_moments,
    changes_base=True,
    recorded={"measured": Measured},
)
