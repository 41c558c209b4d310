"""ferret, described."""

from collections.abc import Iterator

from airtune.config.experiment import ExperimentConfig
from airtune.methods.ferret.options import CODEC_OPTIONS, FerretSection, SeededOptions
from airtune.methods.ferret.recorded import Measured
from airtune.methods.spec import Lazy, MethodSpec, PartSpec, Unused


def _unused(config: ExperimentConfig, options: FerretSection) -> Iterator[Unused]:
    if options.downlink == "coefficients":
        yield "ferret.downlink_dtype", "ferret.downlink is model"


def _not_deployed(options: FerretSection) -> str | None:
    return "ferret.downlink: coefficients" if options.downlink == "coefficients" else None


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
    seeded=True,
    unused=_unused,
    not_deployed=_not_deployed,
    recorded={"measured": Measured},
)
