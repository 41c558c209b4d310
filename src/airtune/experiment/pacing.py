"""From the section `pacing` to what the server does, where method and parts can do it."""

from dataclasses import replace

from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError
from airtune.federated.checks.capabilities import part_name
from airtune.federated.method import Method
from airtune.federated.pacing.rules import Kind, Pacing, Staleness, StaleWeighting
from airtune.methods.registry import find_method, method_names

SYNCHRONOUS = "synchronous"
_REMEDY = "leave out the section pacing for synchronous rounds"


def pacing_of(config: ExperimentConfig) -> Pacing | None:
    """The pacing of an experiment; None for synchronous rounds.

    Raises InputError for a buffer that the tasks under way can never fill, and for a deadline.
    """
    section = config.pacing
    if section.kind == SYNCHRONOUS:
        return None
    under_way = config.cohort.size or config.clients.count
    buffer = section.buffer or max(under_way // 2, 1)
    if buffer > under_way:
        allowed = f"at most {under_way}, the tasks under way"
        raise InputError("pacing.buffer", buffer, allowed, "choose fewer, or more clients")
    if config.deadline_s is not None:
        raise InputError(
            "deadline_s",
            config.deadline_s,
            f"left out with pacing.kind: {section.kind}, whose steps wait for no client",
            "drop old updates with pacing.most_staleness",
        )
    rule = section.staleness
    return Pacing(
        Kind(section.kind),
        buffer,
        section.period_s or float("inf"),
        Staleness(rule.kind, rule.exponent, rule.threshold, rule.slope),
        section.mixing_rate or _mixing_rate(section.kind, buffer, under_way),
        section.most_staleness,
        section.sharing == "processor",
    )


def _mixing_rate(kind: str, buffer: int, under_way: int) -> float:
    """As many updates as there are tasks under way move the adapter as far as a round's mean."""
    return {"buffered": buffer, "asynchronous": 1}.get(kind, under_way) / under_way


def check_pacing(config: ExperimentConfig) -> None:
    """Refuse a method that has synchronous rounds only, before the model is loaded."""
    if pacing_of(config) is None or find_method(config.method).paces:
        return
    able = [name for name in method_names() if find_method(name).paces]
    raise InputError(
        "pacing.kind",
        config.pacing.kind,
        f"{SYNCHRONOUS} with method {config.method}; others are for {', '.join(able)}",
        _REMEDY,
    )


def paced(config: ExperimentConfig, method: Method) -> Method:
    """The method with the shares of stale updates. Raises InputError for parts that cannot."""
    pacing = pacing_of(config)
    if pacing is None:
        return method
    planner, aggregator = method.planner, method.aggregator
    if not planner.paces:
        raise InputError(
            "planner",
            part_name(planner),
            f"one that plans a part of the cohort, with pacing.kind: {config.pacing.kind}",
            _REMEDY,
        )
    if config.pacing.sharing not in planner.paces:
        raise InputError(
            "pacing.sharing",
            config.pacing.sharing,
            f"{' or '.join(sorted(planner.paces))}, as planner {part_name(planner)} divides the "
            "band",
            f"set {config.method}.bandwidth: equal",
        )
    if method.weighting is not None:
        raise InputError(
            "pacing.kind",
            config.pacing.kind,
            f"{SYNCHRONOUS}, since {part_name(method.weighting)} weighs the updates of "
            f"{config.method}",
            _REMEDY,
        )
    if not aggregator.uses_shares:
        raise InputError(
            "aggregator",
            part_name(aggregator),
            f"one that uses shares, with pacing.kind: {config.pacing.kind}",
            "choose another aggregator, or leave out the section pacing",
        )
    return replace(method, weighting=StaleWeighting(pacing))
