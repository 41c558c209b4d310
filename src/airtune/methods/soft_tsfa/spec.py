"""soft_tsfa, described."""

from collections.abc import Iterator

from airtune.config.experiment import ExperimentConfig
from airtune.methods.options import options_of
from airtune.methods.soft_tsfa.options import PLANNER_OPTIONS, SoftTsfaSection
from airtune.methods.soft_tsfa.recorded import Measured, Planned
from airtune.methods.spec import (
    Lazy,
    MethodSpec,
    OfflineStage,
    PartSpec,
    ProblemSpec,
    Unused,
)


def _unused(config: ExperimentConfig, options: SoftTsfaSection) -> Iterator[Unused]:
    if options.sparsifier == "dense":
        yield "soft_tsfa.solver", "soft_tsfa.sparsifier is not dense"
        yield "soft_tsfa.merge", "soft_tsfa.sparsifier is not dense"
    if options.sparsifier == "svd":
        yield "soft_tsfa.merge", "soft_tsfa.sparsifier is not svd"
    if options.solver != "fixed-sparsity":
        yield "soft_tsfa.sparsity", "soft_tsfa.solver is fixed-sparsity"
    if options.penalty == 0:
        yield "soft_tsfa.penalty_form", "soft_tsfa.penalty is above 0"
    if options.sparsifier != "importance":
        yield "soft_tsfa.importance", "soft_tsfa.sparsifier is importance"
        yield "soft_tsfa.choice", "soft_tsfa.sparsifier is importance"


SOFT_TSFA = MethodSpec(
    name="soft_tsfa",
    title="near-orthogonal LoRA factors, sent rank by rank under a mean latency",
    references=("Kim and Choi, arXiv 2505.00333",),
    options=SoftTsfaSection,
    compose=Lazy("airtune.methods.soft_tsfa.compose:compose"),
    problem=ProblemSpec(
        "tsfa",
        "airtune.methods.soft_tsfa.problem",
        Lazy("airtune.methods.soft_tsfa.from_cell:explicit"),
        Lazy("airtune.methods.soft_tsfa.problem_file:TsfaCell"),
    ),
    parts={
        "planner": {
            "tsfa": PartSpec(
                options_of(SoftTsfaSection, *PLANNER_OPTIONS, "selection"),
                Lazy("airtune.methods.soft_tsfa.compose:planner"),
            )
        }
    },
    part_options={
        "planner": PLANNER_OPTIONS,
        "tuner": ("penalty", "penalty_form"),
        "codec": ("uplink_dtype", "sparsifier", "choice"),
        "aggregator": ("merge", "orthogonalise"),
    },
    offline=(
        OfflineStage(
            "rank-search",
            "rank-search.json",
            wanted=lambda options: bool(options.rank_search),
            decide=Lazy("airtune.methods.soft_tsfa.rank_search:decide"),
            search=Lazy("airtune.methods.soft_tsfa.rank_search:search_ranks"),
        ),
    ),
    unused=_unused,
    switches=("rank_search",),
    chooses_rank=lambda options: "rank_search" if options.rank_search else None,
    recorded={"plan": Planned, "measured": Measured},
)
