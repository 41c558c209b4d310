"""fedex_lora, described."""

from airtune.methods.fedex_lora.options import FedexLoraSection
from airtune.methods.fedex_lora.recorded import Measured
from airtune.methods.spec import Lazy, MethodSpec

FEDEX_LORA = MethodSpec(
    name="fedex_lora",
    title="the mean of LoRA factors, what it leaves out merged into the base",
    references=("Singhal et al., arXiv 2410.09432",),
    options=FedexLoraSection,
    compose=Lazy("airtune.methods.fedex_lora.compose:compose"),
    part_options={"planner": ("bandwidth",), "codec": ("uplink_dtype",)},
    changes_base=True,
    recorded={"measured": Measured},
)
