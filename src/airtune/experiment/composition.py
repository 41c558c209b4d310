"""Which parts a method is made of; the only module that knows every concrete part."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from airtune.config import ExperimentConfig, ServerSection
from airtune.experiment.parts import make_part, unknown_name
from airtune.federated.method import Method, Planner
from airtune.methods.fedlora import BandwidthPlanner, fedlora
from airtune.methods.jcpba import JcpbaPlanner, jcpba
from airtune.tuning.tuner import FullTuner, Tuner
from airtune.update.aggregate import Aggregator, FactorMean
from airtune.update.codec import Codec, DenseCodec
from airtune.update.overlap import OverlapMean
from airtune.update.server_step import ServerAdam, ServerMomentum, ServerOptimizer, TakeMerged

Factory = Callable[[ExperimentConfig, Any], Method]

METHODS: dict[str, Factory] = {
    "fedlora": lambda config, model: fedlora(
        config.fedlora.bandwidth, config.fedlora.uplink_dtype, config.fedlora.downlink_dtype
    ),
    "jcpba": lambda config, model: jcpba(
        model,
        JcpbaPlanner(
            config.jcpba.solver,
            config.jcpba.pruning_budget,
            config.jcpba.pruning_rate_max,
            config.jcpba.uplink_dtype,
        ),
        config.jcpba.importance,
        config.seed,
    ),
}
"""Method name -> its composition, from the experiment and the adapted model."""
PLANNERS: dict[str, type[Planner]] = {"bandwidth": BandwidthPlanner, "jcpba": JcpbaPlanner}
TUNERS: dict[str, type[Tuner]] = {"full": FullTuner}
CODECS: dict[str, type[Codec]] = {"dense": DenseCodec}
AGGREGATORS: dict[str, type[Aggregator]] = {"factor-mean": FactorMean, "overlap-mean": OverlapMean}


def check_names(config: ExperimentConfig) -> None:
    """Refuse an unknown method, or a part that cannot be made, before the model is loaded."""
    if config.method not in METHODS:
        raise unknown_name("method", config.method, METHODS)
    _replacements(config)


def compose_method(config: ExperimentConfig, model: Any) -> Method:
    """The method by name, with the server's step and every part that the experiment replaces."""
    method = METHODS[config.method](config, model)
    return replace(method, server=_server(config.server), **_replacements(config))


def _server(section: ServerSection) -> ServerOptimizer:
    if section.optimizer == "momentum":
        return ServerMomentum(section.learning_rate or 1.0, section.momentum)
    if section.optimizer == "adam":
        return ServerAdam(
            section.learning_rate or 1e-2,
            section.momentum,
            section.second_momentum,
            section.adaptivity,
        )
    return TakeMerged()


def _replacements(config: ExperimentConfig) -> dict[str, Any]:
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
    return replaced
