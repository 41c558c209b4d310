"""fedlora, described."""

from airtune.methods.fedlora.options import FedloraSection
from airtune.methods.spec import Lazy, MethodSpec

FEDLORA = MethodSpec(
    name="fedlora",
    title="federated averaging of LoRA factors, the band split equally or optimally",
    references=("McMahan et al., arXiv 1602.05629", "Hu et al., arXiv 2106.09685"),
    options=FedloraSection,
    compose=Lazy("airtune.methods.fedlora.compose:compose"),
    part_options={"planner": ("bandwidth",), "codec": ("uplink_dtype",)},
    needs_factors=False,
    paces=True,
)
