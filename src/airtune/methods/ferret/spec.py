"""ferret, described."""

from airtune.methods.ferret.options import CODEC_OPTIONS, FerretSection, SeededOptions
from airtune.methods.ferret.recorded import Measured
from airtune.methods.spec import Lazy, MethodSpec, PartSpec

FERRET = MethodSpec(
    name="ferret",
    title="updates as coefficients on directions from a seed, of LoRA or of every parameter",
    references=("Shu et al., arXiv 2409.06277",),
    options=FerretSection,
    compose=Lazy("airtune.methods.ferret.compose:compose"),
    parts={
        "codec": {
            "seeded": PartSpec(SeededOptions, Lazy("airtune.methods.ferret.compose:seeded_codec"))
        }
    },
    part_options={"planner": ("bandwidth",), "codec": CODEC_OPTIONS},
    needs_factors=False,
    recorded={"measured": Measured},
)
