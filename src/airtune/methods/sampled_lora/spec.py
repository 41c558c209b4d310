"""sampled_lora, described."""

from collections.abc import Iterator

from airtune.config.experiment import ExperimentConfig
from airtune.methods.sampled_lora.options import PLANNER_OPTIONS, SampledLoraSection
from airtune.methods.sampled_lora.recorded import Measured, Planned
from airtune.methods.spec import Lazy, MethodSpec, ProblemSpec, Unused


def _unused(config: ExperimentConfig, options: SampledLoraSection) -> Iterator[Unused]:
    if options.participation != "planned":
        yield "sampled_lora.least_rank", "sampled_lora.participation is planned"


SAMPLED_LORA = MethodSpec(
    name="sampled_lora",
    title="clients drawn independently with planned probabilities and random ranks",
    references=("Geng et al., arXiv 2505.23555", "Fang et al., arXiv 2501.19389"),
    options=SampledLoraSection,
    compose=Lazy("airtune.methods.sampled_lora.compose:compose"),
    problem=ProblemSpec("sampled_lora", "airtune.methods.sampled_lora.problem"),
    part_options={"planner": PLANNER_OPTIONS, "codec": ("uplink_dtype",)},
    unused=_unused,
    draws_cohort=True,
    recorded={"plan": Planned, "measured": Measured},
)
