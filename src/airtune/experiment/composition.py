"""Which parts a method is made of; the only module that knows every concrete part."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from airtune.config.experiment import ExperimentConfig, ServerSection
from airtune.errors import InputError
from airtune.experiment.assembly import assembled
from airtune.experiment.parts import Spec, check_part, make_part, unknown_name
from airtune.experiment.shipped import PLANNERS, Bench, shipped_parts
from airtune.experiment.split_composition import split_method
from airtune.experiment.trained import FULL, check_trained
from airtune.federated.checks.capabilities import check_parts, check_trains_any, part_name
from airtune.federated.method import Method, Planner
from airtune.methods.centralised.compose import centralised
from airtune.methods.fedlora.compose import BandwidthPlanner, fedlora
from airtune.methods.ffa_lora.compose import ffa_lora
from airtune.methods.hetlora.compose import hetlora
from airtune.methods.jcpba.planner import jcpba
from airtune.methods.soft_tsfa.compose import SoftOptions, soft_tsfa
from airtune.tuning.adapter import initial_state
from airtune.tuning.tuner import CohortTuner, Tuner
from airtune.update.aggregate import Aggregator
from airtune.update.codec import Codec
from airtune.update.server_step import ServerAdam, ServerMomentum, ServerOptimizer, TakeMerged

Factory = Callable[[Bench], Method]


def _soft_tsfa(bench: Bench) -> Method:
    config, section = bench.config, bench.config.soft_tsfa
    if config.charge_as and section.selection == "global":
        raise InputError(
            "soft_tsfa.selection", "global", "per-layer together with charge_as",
            "counts by matrix of one model mean nothing for another",
        )  # fmt: skip
    planner = PLANNERS["tsfa"].make(bench, section)
    if section.sparsifier == "dense":
        planner = replace(planner, solver="dense")
    names = [field.name for field in fields(SoftOptions)]
    options = SoftOptions(**{name: getattr(section, name) for name in names})
    return soft_tsfa(planner, options, config.seed)


def _fedlora(bench: Bench) -> Method:
    section = bench.config.fedlora
    planner = BandwidthPlanner(section.bandwidth, bench.config.seed)
    return fedlora(planner, section.uplink_dtype, section.downlink_dtype)


def _jcpba(bench: Bench) -> Method:
    section = bench.config.jcpba
    planner = PLANNERS["jcpba"].make(bench, section)
    return jcpba(planner, bench.slicer(), section.uplink_dtype, bench.config.seed)


def _hetlora(bench: Bench) -> Method:
    section = bench.config.hetlora
    planner = PLANNERS["ranks"].make(bench, section)
    return hetlora(planner, section.uplink_dtype, section.downlink_dtype)


def _ffa_lora(bench: Bench) -> Method:
    config, section = bench.config, bench.config.ffa_lora
    planner = BandwidthPlanner(section.bandwidth, config.seed)
    if config.adapter.start:
        # No client can draw the A of a warm start itself, so it travels with every broadcast.
        return ffa_lora(planner, None, section.uplink_dtype, section.downlink_dtype)
    drawn = initial_state(bench.model, config.seed)
    return ffa_lora(planner, drawn, section.uplink_dtype, section.downlink_dtype)


METHODS: dict[str, Factory] = {
    "fedlora": _fedlora,
    "jcpba": _jcpba,
    "soft_tsfa": _soft_tsfa,
    "hetlora": _hetlora,
    "ffa_lora": _ffa_lora,
    "centralised": lambda bench: centralised(),
    "sflllm": lambda bench: split_method(bench.config, bench.model),
}
"""Method name -> its composition on a bench."""

BASES: dict[str, tuple[type, ...]] = {
    "planner": (Planner,),
    "tuner": (Tuner, CohortTuner),
    "codec": (Codec,),
    "aggregator": (Aggregator,),
}
"""Kind of part -> what a user-defined one must subclass."""


def check_names(config: ExperimentConfig) -> None:
    """Refuse an unknown method, or a part that cannot be made, before the model is loaded."""
    if config.method not in METHODS:
        raise unknown_name("method", config.method, METHODS)
    check_trained(config)
    for kind, spec in _replaced(config).items():
        check_part(spec, shipped_parts()[kind], BASES[kind], kind)


def compose_method(config: ExperimentConfig, model: Any) -> Method:
    """The method by name, with the server's step and every part that the experiment replaces.

    Raises InputError for parts that do not fit together.
    """
    bench = Bench(config, model)
    parts: dict[str, Any] = {
        kind: make_part(spec, shipped_parts()[kind], BASES[kind], kind, bench)
        for kind, spec in _replaced(config).items()
    }
    made = replace(METHODS[config.method](bench), server=_server(config.server))
    method = assembled(made, parts)
    check_parts(method, {kind: _spec_name(spec) for kind, spec in _replaced(config).items()})
    if method.aggregator.refactors and config.server.optimizer != "none":
        raise InputError(
            "server.optimizer", config.server.optimizer,
            f"none with aggregator {part_name(method.aggregator)}",
            "its moments belong to factors that are replaced; set soft_tsfa.orthogonalise=none, or "
            "choose another aggregator",
        )  # fmt: skip
    if config.adapter.kind == FULL:
        check_trains_any(method, f"adapter.kind: {FULL}")
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


def _spec_name(spec: Spec) -> str:
    return spec if isinstance(spec, str) else str(spec["use"])


def _replaced(config: ExperimentConfig) -> dict[str, Any]:
    """Kind of part -> what the experiment names in its place."""
    specs = {kind: getattr(config, kind) for kind in BASES}
    return {kind: spec for kind, spec in specs.items() if spec is not None}
