"""Offline stages that a run does before round 1, where the experiment sets them."""

from collections.abc import Callable
from typing import Any

from airtune.config.experiment import ExperimentConfig
from airtune.experiment.world import build_world
from airtune.methods.registry import find_method

Evidence = dict[str, dict[str, Any]]


def offline_stages(
    config: ExperimentConfig, report: Callable[[str], None]
) -> tuple[ExperimentConfig, Evidence]:
    """The experiment with what was settled put in, and the tables by file name.

    The switches are off in the answer, so that a resumed run does not search again.
    """
    evidence: Evidence = {}
    spec = find_method(config.method)
    for stage in spec.offline:
        if stage.wanted(config.section(spec.options)):
            config, evidence[stage.file] = stage.decide(config, build_world, report)
    return config, evidence
