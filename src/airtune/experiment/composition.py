"""Which parts a method is made of; the only module that knows every concrete part."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from airtune.config import ExperimentConfig, ServerSection
from airtune.errors import InputError
from airtune.experiment.assembly import assembled
from airtune.experiment.calibration import calibration_batches
from airtune.experiment.devices import deal_devices
from airtune.experiment.parts import make_part, unknown_name
from airtune.experiment.split_composition import check_split, split_method
from airtune.experiment.trained import check_trained
from airtune.federated.method import Method, Planner
from airtune.methods.centralised import centralised
from airtune.methods.fedlora import BandwidthPlanner, fedlora
from airtune.methods.ffa_lora import ffa_lora
from airtune.methods.hetlora import hetlora, ranks_by_speed
from airtune.methods.jcpba import JcpbaPlanner, jcpba
from airtune.methods.sflllm import SflllmPlanner
from airtune.methods.soft_tsfa import SoftOptions, soft_layout, soft_tsfa
from airtune.methods.tsfa_planner import TsfaPlanner
from airtune.tuning.adapter import initial_state, read_adapter
from airtune.tuning.tuner import FullTuner, Tuner
from airtune.update.aggregate import Aggregator, FactorMean
from airtune.update.codec import Codec, DenseCodec
from airtune.update.overlap import OverlapMean
from airtune.update.server_step import ServerAdam, ServerMomentum, ServerOptimizer, TakeMerged

Factory = Callable[[ExperimentConfig, Any], Method]


def _soft_tsfa(config: ExperimentConfig, model: Any) -> Method:
    section = config.soft_tsfa
    if config.charge_as and section.selection == "global":
        raise InputError(
            "soft_tsfa.selection", "global", "per-layer together with charge_as",
            "counts by matrix of one model mean nothing for another",
        )  # fmt: skip
    names = [field.name for field in fields(SoftOptions)]
    planner = TsfaPlanner(
        soft_layout(model, section.selection),
        "dense" if section.sparsifier == "dense" else section.solver,
        section.sparsity,
        section.latency_target_s,
        section.v,
        section.virtual_queue,
        section.outage_latency_s,
        section.target_share,
    )
    options = SoftOptions(**{name: getattr(section, name) for name in names})
    if section.orthogonalise == "svd" and config.server.optimizer != "none":
        raise InputError(
            "server.optimizer", config.server.optimizer, "none with soft_tsfa.orthogonalise: svd",
            "its moments belong to factors that are replaced; set soft_tsfa.orthogonalise=none",
        )  # fmt: skip
    return soft_tsfa(planner, options, config.seed)


def _hetlora(config: ExperimentConfig, model: Any) -> Method:
    section = config.hetlora
    speeds = [device.training_flop_rate for device in deal_devices(config)]
    ranks = ranks_by_speed(speeds, section.rank_min, config.adapter.rank)
    planner = BandwidthPlanner(section.bandwidth, config.seed, ranks)
    return hetlora(planner, section.uplink_dtype, section.downlink_dtype)


def _ffa_lora(config: ExperimentConfig, model: Any) -> Method:
    section, start = config.ffa_lora, config.adapter.start
    drawn = read_adapter(Path(start)) if start else initial_state(model, config.seed)
    planner = BandwidthPlanner(section.bandwidth, config.seed)
    return ffa_lora(planner, drawn, section.uplink_dtype, section.downlink_dtype)


METHODS: dict[str, Factory] = {
    "fedlora": lambda config, model: fedlora(
        BandwidthPlanner(config.fedlora.bandwidth, config.seed),
        config.fedlora.uplink_dtype,
        config.fedlora.downlink_dtype,
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
        partial(calibration_batches, config),
    ),
    "soft_tsfa": _soft_tsfa,
    "hetlora": _hetlora,
    "ffa_lora": _ffa_lora,
    "centralised": lambda config, model: centralised(),
    "sflllm": split_method,
}
"""Method name -> its composition, from the experiment and the adapted model."""
PLANNERS: dict[str, type[Planner]] = {
    "bandwidth": BandwidthPlanner,
    "jcpba": JcpbaPlanner,
    "sflllm": SflllmPlanner,
}
TUNERS: dict[str, type[Tuner]] = {"full": FullTuner}
CODECS: dict[str, type[Codec]] = {"dense": DenseCodec}
AGGREGATORS: dict[str, type[Aggregator]] = {"factor-mean": FactorMean, "overlap-mean": OverlapMean}


def check_names(config: ExperimentConfig) -> None:
    """Refuse an unknown method, or a part that cannot be made, before the model is loaded."""
    if config.method not in METHODS:
        raise unknown_name("method", config.method, METHODS)
    check_trained(config)
    _replacements(config)


def compose_method(config: ExperimentConfig, model: Any) -> Method:
    """The method by name, with the server's step and every part that the experiment replaces."""
    made = METHODS[config.method](config, model)
    method = assembled(replace(made, server=_server(config.server)), _replacements(config))
    check_split(config, method)
    return method


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
