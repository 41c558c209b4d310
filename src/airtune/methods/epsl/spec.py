"""epsl, described."""

from collections.abc import Iterator

from airtune.config.experiment import ExperimentConfig
from airtune.methods.epsl.options import EpslSection
from airtune.methods.epsl.recorded import Measured
from airtune.methods.spec import Lazy, MethodSpec, Unused


def _unused(config: ExperimentConfig, options: EpslSection) -> Iterator[Unused]:
    from airtune.methods.split_parts import unused_with_own_halves

    yield from unused_with_own_halves("epsl", options.client_halves)


def _not_deployed(options: EpslSection) -> str | None:
    from airtune.methods.split_parts import kept_at_clients

    ratio = options.aggregation_ratio
    if ratio > 0:
        return f"epsl.aggregation_ratio is {ratio:g}"
    return kept_at_clients("epsl", options)


EPSL = MethodSpec(
    name="epsl",
    title="parallel split training, gradients aggregated over clients at the server",
    references=("Lin et al., arXiv 2303.15991",),
    options=EpslSection,
    compose=Lazy("airtune.methods.epsl.compose:compose"),
    part_options={
        "planner": ("split_point",),
        "tuner": ("cosine",),
        "codec": ("uplink_dtype",),
    },
    unused=_unused,
    splits=True,
    rests_on=Lazy("airtune.methods.split_parts:warm_start"),
    not_deployed=_not_deployed,
    recorded={"measured": Measured},
)
