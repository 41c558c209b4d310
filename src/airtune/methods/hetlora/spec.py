"""hetlora, described."""

from airtune.methods.hetlora.options import HetloraSection
from airtune.methods.options import options_of
from airtune.methods.spec import Lazy, MethodSpec, PartSpec

_PLANNER = ("bandwidth", "rank_min")

HETLORA = MethodSpec(
    name="hetlora",
    title="a LoRA rank per client by device speed",
    references=("Cho et al., arXiv 2401.06432",),
    options=HetloraSection,
    compose=Lazy("airtune.methods.hetlora.compose:compose"),
    parts={
        "planner": {
            "ranks": PartSpec(
                options_of(HetloraSection, *_PLANNER),
                Lazy("airtune.methods.hetlora.compose:rank_planner"),
            )
        }
    },
    part_options={"planner": _PLANNER, "codec": ("uplink_dtype",)},
)
