"""hsfl, described."""

from collections.abc import Iterator
from functools import partial

from airtune.config.experiment import ExperimentConfig
from airtune.methods.hsfl.options import HsflSection
from airtune.methods.spec import Lazy, MethodSpec, ProblemSpec, Unused
from airtune.methods.split_recorded import OwnLosses


def _unused(config: ExperimentConfig, options: HsflSection) -> Iterator[Unused]:
    from airtune.methods.split_parts import unused_with_own_halves

    yield from unused_with_own_halves("hsfl", options.client_halves)
    if options.split_point is not None:
        yield "hsfl.cuts", "hsfl.split_point is null"


HSFL = MethodSpec(
    name="hsfl",
    title="split federated LoRA with own client halves and own cuts",
    references=("Sun et al., arXiv 2411.13907",),
    options=HsflSection,
    compose=Lazy("airtune.methods.hsfl.compose:compose"),
    problem=ProblemSpec(
        "hsfl",
        "airtune.methods.hsfl.problem",
        Lazy("airtune.methods.hsfl.from_cell:explicit"),
        Lazy("airtune.methods.hsfl.problem_file:HsflCell"),
    ),
    part_options={
        "planner": ("cuts", "split_point"),
        "tuner": ("server_side",),
        "codec": ("uplink_dtype",),
    },
    unused=_unused,
    splits=True,
    rests_on=Lazy("airtune.methods.split_parts:warm_start"),
    not_deployed=partial(Lazy("airtune.methods.split_parts:kept_at_clients"), "hsfl"),
    recorded={"measured": OwnLosses},
)
