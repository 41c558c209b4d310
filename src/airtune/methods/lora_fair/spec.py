"""lora_fair, described."""

from airtune.methods.lora_fair.options import LoraFairSection
from airtune.methods.lora_fair.recorded import Measured
from airtune.methods.options import options_of
from airtune.methods.spec import Lazy, MethodSpec, PartSpec

LORA_FAIR = MethodSpec(
    name="lora_fair",
    title="the mean of LoRA factors, B corrected towards the mean of products",
    references=("Bian et al., arXiv 2411.14961",),
    options=LoraFairSection,
    compose=Lazy("airtune.methods.lora_fair.compose:compose"),
    parts={
        "aggregator": {
            "lora-fair": PartSpec(
                options_of(LoraFairSection, "ridge"),
                Lazy("airtune.methods.lora_fair.compose:corrected_mean"),
            )
        }
    },
    part_options={
        "planner": ("bandwidth",),
        "codec": ("uplink_dtype",),
        "aggregator": ("ridge",),
    },
    recorded={"measured": Measured},
    paces=True,
)
