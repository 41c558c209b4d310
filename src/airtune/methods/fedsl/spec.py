"""fedsl, described."""

from collections.abc import Iterator

from airtune.config.experiment import ExperimentConfig
from airtune.methods.fedsl.options import PLANNER_OPTIONS, FedslSection
from airtune.methods.fedsl.recorded import Planned
from airtune.methods.spec import Lazy, MethodSpec, ProblemSpec, Unused
from airtune.methods.split_recorded import OwnLosses


def _unused(config: ExperimentConfig, options: FedslSection) -> Iterator[Unused]:
    if options.latency_target_s is None:
        yield "fedsl.least_kept_share", "fedsl.latency_target_s is given"
    else:
        for key in ("cut_dropout", "activation_dtype", "gradient_dtype"):
            yield f"fedsl.{key}", "fedsl.latency_target_s is null"


FEDSL = MethodSpec(
    name="fedsl",
    title="split training with pruned client halves, dropping and few bits at the cut",
    references=("Zhang et al., arXiv 2412.06414",),
    options=FedslSection,
    compose=Lazy("airtune.methods.fedsl.compose:compose"),
    problem=ProblemSpec(
        "fedsl",
        "airtune.methods.fedsl.problem",
        Lazy("airtune.methods.fedsl.from_cell:explicit"),
        Lazy("airtune.methods.fedsl.problem_file:FedslCell"),
    ),
    part_options={"planner": PLANNER_OPTIONS, "codec": ("uplink_dtype",)},
    unused=_unused,
    splits=True,
    rests_on=Lazy("airtune.methods.split_parts:warm_start"),
    not_deployed=lambda options: "its cut is planned client by client",
    recorded={"plan": Planned, "measured": OwnLosses},
)
