"""jcpba, described."""

from collections.abc import Iterator, Mapping
from typing import Any

from airtune.config.experiment import ExperimentConfig
from airtune.methods.jcpba.options import PLANNER_OPTIONS, JcpbaSection, PrunedOptions
from airtune.methods.jcpba.recorded import Measured
from airtune.methods.options import NumberOptions, options_of
from airtune.methods.spec import (
    Lazy,
    MethodSpec,
    OfflineStage,
    PartSpec,
    ProblemSpec,
    Unused,
)


def _unused(config: ExperimentConfig, options: JcpbaSection) -> Iterator[Unused]:
    if options.solver in ("no-pruning", "none"):
        for key in ("pruning_budget", "pruning_rate_max", "budget_search"):
            yield f"jcpba.{key}", "jcpba.solver prunes"
    if options.importance != "activations":
        for key in ("calibration", "calibration_rows"):
            yield f"jcpba.{key}", "jcpba.importance is activations"


def _rests_on(config: ExperimentConfig) -> Mapping[str, Any]:
    """The rows on which activation-weighted importance looks at the model."""
    if config.section(JcpbaSection).importance != "activations":
        return {}
    from airtune.methods.jcpba.calibration import calibration_batches

    batches = calibration_batches(config)
    return {
        "the data of jcpba.calibration": [
            array for batch in batches for array in vars(batch).values()
        ]
    }


JCPBA = MethodSpec(
    name="jcpba",
    title="pruned LoRA fine-tuning, pruning rates and bandwidth planned together",
    references=("Pang et al., arXiv 2602.01024",),
    options=JcpbaSection,
    compose=Lazy("airtune.methods.jcpba.compose:compose"),
    problem=ProblemSpec(
        "jcpba",
        "airtune.methods.jcpba.problem",
        Lazy("airtune.methods.jcpba.from_cell:explicit"),
        Lazy("airtune.methods.jcpba.problem:JcpbaCell"),
    ),
    parts={
        "planner": {
            "jcpba": PartSpec(
                options_of(JcpbaSection, *PLANNER_OPTIONS),
                Lazy("airtune.methods.jcpba.compose:planner"),
            )
        },
        "tuner": {
            "pruned": PartSpec(PrunedOptions, Lazy("airtune.methods.jcpba.compose:pruned_tuner"))
        },
        "codec": {
            "sliced": PartSpec(NumberOptions, Lazy("airtune.methods.jcpba.compose:sliced_codec"))
        },
    },
    part_options={"planner": (*PLANNER_OPTIONS, "budget_search"), "codec": ("uplink_dtype",)},
    offline=(
        OfflineStage(
            "budget-search",
            "budget-search.json",
            wanted=lambda options: bool(options.budget_search),
            decide=Lazy("airtune.methods.jcpba.budget_search:decide"),
            search=Lazy("airtune.methods.jcpba.budget_search:search_budget"),
        ),
    ),
    unused=_unused,
    switches=("budget_search",),
    files=("calibration",),
    rests_on=_rests_on,
    recorded={"measured": Measured},
)
