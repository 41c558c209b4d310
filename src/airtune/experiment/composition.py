"""Which parts a method is made of; the only module that knows every concrete part."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from airtune.config import ExperimentConfig
from airtune.experiment.parts import make_part, unknown_name
from airtune.federated.method import FullTuner, Method, Planner, Tuner
from airtune.methods.fedlora import BandwidthPlanner, fedlora
from airtune.update.aggregate import Aggregator, FactorMean
from airtune.update.codec import Codec, DenseCodec

METHODS: dict[str, Callable[[ExperimentConfig], Method]] = {
    "fedlora": lambda config: fedlora(
        config.fedlora.bandwidth, config.fedlora.uplink_dtype, config.fedlora.downlink_dtype
    )
}
PLANNERS: dict[str, type[Planner]] = {"bandwidth": BandwidthPlanner}
TUNERS: dict[str, type[Tuner]] = {"full": FullTuner}
CODECS: dict[str, type[Codec]] = {"dense": DenseCodec}
AGGREGATORS: dict[str, type[Aggregator]] = {"factor-mean": FactorMean}


def compose_method(config: ExperimentConfig) -> Method:
    """The method by name, with every part that the experiment replaces."""
    if config.method not in METHODS:
        raise unknown_name("method", config.method, METHODS)
    method = METHODS[config.method](config)
    replaced: dict[str, Any] = {}
    for name, known, base in (
        ("planner", PLANNERS, Planner),
        ("tuner", TUNERS, Tuner),
        ("codec", CODECS, Codec),
        ("aggregator", AGGREGATORS, Aggregator),
    ):
        spec = getattr(config, name)
        if spec is not None:
            replaced[name] = make_part(spec, known, base, name)
    return replace(method, **replaced)
