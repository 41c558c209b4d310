"""sflllm, described."""

from airtune.config.experiment import ExperimentConfig
from airtune.methods.options import NoOptions, NumberOptions, options_of
from airtune.methods.sflllm.options import PLANNER_OPTIONS, SflllmSection
from airtune.methods.spec import Lazy, MethodSpec, OfflineStage, PartSpec, ProblemSpec


def _rounds_to_target(config: ExperimentConfig) -> tuple[float, str] | None:
    """E(r) at the experiment's rank, of the table that it names."""
    source = config.section(SflllmSection).rounds_table
    if source is None:
        return None
    from airtune.methods.sflllm.rounds_table import FIELD, read_rounds

    rank = config.adapter.rank
    rounds = read_rounds(source).rounds.get(rank)
    if rounds is None:
        return None
    named = source if isinstance(source, str) else "given in the experiment"
    return rounds, f"E({rank}) of {FIELD}, {named}"


SFLLLM = MethodSpec(
    name="sflllm",
    title="split federated LoRA: split point, subchannels and power planned together",
    references=("Zhao et al., arXiv 2504.14667", "Zhao et al., arXiv 2407.09250"),
    options=SflllmSection,
    compose=Lazy("airtune.methods.sflllm.compose:compose"),
    problem=ProblemSpec(
        "sflllm",
        "airtune.methods.sflllm.problem",
        Lazy("airtune.methods.sflllm.from_cell:explicit"),
        Lazy("airtune.methods.sflllm.problem_file:SflllmCell"),
    ),
    parts={
        "planner": {
            "sflllm": PartSpec(
                options_of(SflllmSection, *PLANNER_OPTIONS),
                Lazy("airtune.methods.sflllm.compose:planner"),
            )
        },
        "tuner": {"split": PartSpec(NoOptions, Lazy("airtune.methods.sflllm.compose:split_tuner"))},
        "aggregator": {
            "halves-mean": PartSpec(NoOptions, Lazy("airtune.methods.sflllm.compose:halves_mean"))
        },
        "codec": {
            "half": PartSpec(NumberOptions, Lazy("airtune.methods.sflllm.compose:half_codec"))
        },
    },
    part_options={"planner": PLANNER_OPTIONS, "codec": ("uplink_dtype",)},
    offline=(
        OfflineStage(
            "rank-choice",
            "rank-choice.json",
            wanted=lambda options: options.rounds_table is not None,
            decide=Lazy("airtune.methods.sflllm.offline:choose_rank"),
        ),
        OfflineStage(
            "local-accuracy",
            "local-accuracy.json",
            wanted=lambda options: (options.accuracy_a, options.accuracy_v) != (None, None),
            decide=Lazy("airtune.methods.sflllm.offline:count_by_accuracy"),
        ),
    ),
    splits=True,
    files=("rounds_table",),
    rounds_to_target=_rounds_to_target,
    chooses_rank=lambda options: None if options.rounds_table is None else "rounds_table",
)
