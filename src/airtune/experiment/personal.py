"""From `adapter.personal` to a method whose clients keep those tensors, where its parts can."""

from dataclasses import replace
from typing import Any

from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError
from airtune.federated.checks.capabilities import part_name
from airtune.federated.method import Method
from airtune.tuning.personal import PersonalTuner, personal_start
from airtune.tuning.tuner import CohortTuner
from airtune.update.personal import SharedCodec, checked_names

FIELD = "adapter.personal"


def with_personal(config: ExperimentConfig, model: Any, method: Method) -> Method:
    """The method with the personal tensors kept at each client; as it is without any.

    Raises InputError for parts that need the whole adapter of every client, and for patterns that
    name nothing or everything.
    """
    patterns = tuple(config.adapter.personal)
    if not patterns:
        return method
    _refuse(config, method)
    checked_names(method.start(model, config.seed), patterns)
    known = personal_start(model, config.seed, patterns)
    assert not isinstance(method.tuner, CohortTuner), "refused"
    return replace(
        method,
        tuner=PersonalTuner(method.tuner, patterns),
        codec=SharedCodec(method.codec, patterns),
        downlink=SharedCodec(method.downlink, patterns, known),
        keeps_own=True,
    )


def _refuse(config: ExperimentConfig, method: Method) -> None:
    aggregator = method.aggregator
    for reason, wrong in (
        (f"method {method.name}, which splits the model", isinstance(method.tuner, CohortTuner)),
        (
            f"aggregator {part_name(aggregator)}, which works on whole products",
            aggregator.on_factors or aggregator.refactors or aggregator.changes_base,
        ),
        (f"codec {part_name(method.codec)}, which sends more", not method.codec.takes_any_tensors),
        (
            f"downlink {part_name(method.downlink)}, which sends more",
            not method.downlink.takes_any_tensors,
        ),
        ("tuner error feedback, which adds what was not sent", method.tuner.adds_unsent),
        ("adapter.start, whose tensors clients cannot draw", config.adapter.start is not None),
        (f"pacing.kind: {config.pacing.kind}", config.pacing.kind != "synchronous"),
    ):
        if wrong:
            raise InputError(
                FIELD,
                ", ".join(config.adapter.personal),
                f"left out with {reason}",
                "choose a method whose codec takes any tensors and whose server averages",
            )
