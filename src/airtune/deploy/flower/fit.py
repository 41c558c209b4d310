"""Which experiments Flower can carry."""

from airtune.config.experiment import ExperimentConfig
from airtune.deploy.server import refuse_undeployable
from airtune.errors import InputError
from airtune.methods.registry import find_method

REMEDY = "use `airtune deploy server` and `airtune deploy client`"


def refuse_unfit(config: ExperimentConfig) -> None:
    """InputError for what Flower's messages cannot do, or no deployment can."""
    refuse_undeployable(config)
    if find_method(config.method).splits:
        raise InputError(
            "method",
            config.method,
            "one whose clients train the whole model, since Flower's messages are too slow for "
            "every step of a split one",
            REMEDY,
        )
    settings = config.deploy
    for key, value, allowed in (("rates", settings.rates, "cell"), ("pace", settings.pace, False)):
        if value != allowed:
            raise InputError(
                f"deploy.{key}",
                str(value).lower(),
                f"{str(allowed).lower()} with Flower, whose transfers are not planned",
                REMEDY,
            )
