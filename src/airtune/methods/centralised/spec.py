"""centralised, described."""

from collections.abc import Iterator

from airtune.config.data import PartitionSection
from airtune.config.experiment import CohortSection, ExperimentConfig
from airtune.methods.options import NoOptions
from airtune.methods.spec import Lazy, MethodSpec, Unused


def pooled(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment with one client, which holds everything, in place of all.

    It takes as many steps a round as the cohort would have, with an optimiser that is never reset.
    Applying it twice changes nothing, so the resolved experiment reads back to itself.
    """
    cohort = config.cohort.size or config.clients.count
    steps = cohort * config.training.local_steps
    return config.model_copy(
        update={
            "clients": config.clients.model_copy(update={"count": 1}),
            "cohort": CohortSection(),
            "training": config.training.model_copy(
                update={"local_steps": steps, "keep_optimizer": True}
            ),
            "data": config.data.model_copy(update={"partition": PartitionSection()}),
        }
    )


def _unused(config: ExperimentConfig, options: NoOptions) -> Iterator[Unused]:
    for key, what in (
        ("data.partition.kind", "which holds all rows at one client"),
        ("data.partition.concentration", "which holds all rows at one client"),
        ("data.partition.column", "which holds all rows at one client"),
        ("training.keep_optimizer", "whose optimiser is never reset"),
        ("cohort.dropout", "which has one client"),
    ):
        yield key, f"method is not centralised, {what}"


CENTRALISED = MethodSpec(
    name="centralised",
    title="LoRA on all data in one place, the reference for federated losses",
    references=("Hu et al., arXiv 2106.09685",),
    options=NoOptions,
    compose=Lazy("airtune.methods.centralised.compose:compose"),
    prepare=pooled,
    unused=_unused,
    needs_factors=False,
    is_federated=False,
)
