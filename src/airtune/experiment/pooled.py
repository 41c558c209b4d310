"""The experiment that `method: centralised` really runs: one client that holds everything."""

from airtune.config.experiment import CohortSection, ExperimentConfig
from airtune.config.section import PartitionSection


def pooled(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment, with one client in place of all where the method is `centralised`.

    It takes as many steps a round as the cohort would have, with an optimiser that is never reset.
    Doing it twice changes nothing, so the resolved experiment reads back to itself.
    """
    if config.method != "centralised":
        return config
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
