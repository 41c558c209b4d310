"""From an experiment to a method: the one that it names, with the parts that it replaces.

A part has a name, or is user-defined and has an import path.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airtune.config.experiment import PART_KINDS, ExperimentConfig, ServerSection
from airtune.cost.device import DeviceProfile
from airtune.errors import InputError
from airtune.experiment.energy import check_energy, with_energy
from airtune.experiment.pacing import check_pacing, paced
from airtune.experiment.personal import with_personal
from airtune.experiment.trained import FULL, check_trained
from airtune.federated.checks.capabilities import check_parts, check_trains_any, part_name
from airtune.federated.method import Method, Planner
from airtune.federated.sampling import Sampler
from airtune.methods.bench import Bench
from airtune.methods.parts import known_parts
from airtune.methods.registry import find_method, method_names
from airtune.methods.spec import PartSpec
from airtune.round_plan import Decision
from airtune.section import check
from airtune.tuning.tuner import CohortTuner, Tuner
from airtune.update.codec import Codec
from airtune.update.server import (
    Aggregator,
    ServerAdam,
    ServerMomentum,
    ServerOptimizer,
    TakeMerged,
)
from airtune.update.weighting import Unbiased
from airtune.user_parts import Spec, check_class, made_part, name_and_options
from airtune.workload.precision import refuse_pruned

BASES: dict[str, tuple[type, ...]] = {
    "planner": (Planner,),
    "tuner": (Tuner, CohortTuner),
    "codec": (Codec,),
    "aggregator": (Aggregator,),
}
"""Kind of part -> what a user-defined one must subclass."""


def make_part(
    spec: Spec, known: Mapping[str, PartSpec], bases: tuple[type, ...], field: str, bench: Bench
) -> Any:
    """Build the part that an experiment names, a shipped one on the bench."""
    name, options = check_part(spec, known, bases, field)
    if name in known:
        return known[name].make(bench, options)
    return made_part(name, options, field, known)


def check_part(
    spec: Spec, known: Mapping[str, PartSpec], bases: tuple[type, ...], field: str
) -> tuple[str, Any]:
    """The name and the checked options of a part; a user-defined class must subclass a base."""
    name, options = name_and_options(spec, field)
    if name in known:
        return name, check(known[name].options, options, field)
    check_class(name, options, bases, field, known)
    return name, options


def check_names(config: ExperimentConfig) -> None:
    """Refuse an unknown method, or a part that cannot be made, before the model is loaded."""
    name = config.method
    if find_method(name).compose is None:
        raise InputError(
            "method", name, f"one of {', '.join(method_names())}", "it is only for `airtune plan`"
        )
    check_trained(config)
    check_pacing(config)
    check_energy(config)
    known = _known(config)
    for kind, spec in _replaced(config).items():
        check_part(spec, known[kind], BASES[kind], kind)


def compose_method(
    config: ExperimentConfig,
    model: Any,
    devices: tuple[DeviceProfile, ...],
    *,
    check_fit: bool = True,
) -> Method:
    """The method by name, with the server's step and every part that the experiment replaces.

    Raises InputError for parts that do not fit together. `check_fit=False`: for a client on another
    machine, which is given only the parts that it runs, and whose server has checked them.
    """
    bench, known = Bench(config, model, devices), _known(config)
    parts: dict[str, Any] = {
        kind: make_part(spec, known[kind], BASES[kind], kind, bench)
        for kind, spec in _replaced(config).items()
    }
    spec = find_method(config.method)
    assert spec.compose is not None, "refused by check_names"
    composed: Method = spec.compose(bench, config.section(spec.options))
    method = assembled(replace(composed, server=_server(config.server)), parts)
    if not check_fit:
        return with_personal(config, model, method)
    check_parts(method, {kind: _spec_name(spec) for kind, spec in _replaced(config).items()})
    if isinstance(method.planner, Sampler):
        refuse_drawn_twice(method.planner, config)
    if Decision.PRUNING in method.planner.decides:
        refuse_pruned(config.dtype)
    if method.aggregator.refactors and config.server.optimizer != "none":
        raise InputError(
            "server.optimizer",
            config.server.optimizer,
            f"none with aggregator {part_name(method.aggregator)}",
            "its moments belong to factors that are replaced; choose another aggregator",
        )
    if config.adapter.kind == FULL:
        check_trains_any(method, f"adapter.kind: {FULL}")
    return paced(config, with_energy(config, with_personal(config, model, method), devices))


def refuse_drawn_twice(planner: Planner, config: ExperimentConfig) -> None:
    """InputError for keys that would draw, or drop, clients besides a planner's own draw."""
    name = part_name(planner)
    for key, value, allowed, why in (
        ("cohort.size", config.cohort.size, "null", "which draws the cohort itself"),
        (
            "deadline_s",
            config.deadline_s,
            "null",
            "since updates that come too late are lost to it",
        ),
    ):
        if value is not None:
            raise InputError(key, value, f"{allowed} with planner {name}, {why}", "leave it out")


def assembled(made: Method, parts: Mapping[str, Any]) -> Method:
    """The method with these parts, by name, in place of its own.

    A tuner or an aggregator that wraps another one stays around the part that replaces its inside
    (`replaced_by`), and a tuner that holds a codec gets the one that runs (`with_codec`). Beside a
    planner that draws its own cohort, updates are weighed without bias, unless the method weighs.
    """
    put = {
        name: getattr(made, name).replaced_by(part) if name in ("tuner", "aggregator") else part
        for name, part in parts.items()
    }
    method = replace(made, **put)
    if isinstance(method.planner, Sampler) and method.weighting is None:
        method = replace(method, weighting=Unbiased())
    return replace(method, tuner=method.tuner.with_codec(method.codec))


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


def _known(config: ExperimentConfig) -> Mapping[str, Mapping[str, PartSpec]]:
    return known_parts([config.method])


def _spec_name(spec: Spec) -> str:
    return spec if isinstance(spec, str) else str(spec["use"])


def _replaced(config: ExperimentConfig) -> dict[str, Any]:
    """Kind of part -> what the experiment names in its place."""
    specs = {kind: getattr(config, kind) for kind in PART_KINDS}
    return {kind: spec for kind, spec in specs.items() if spec is not None}
