"""The composition of sflllm, and its parts beside those of other methods."""

from dataclasses import replace
from typing import Any, cast

from airtune.config.experiment import ExperimentConfig
from airtune.federated.charging.split_costs import SplitSystem
from airtune.federated.method import Method
from airtune.methods.bench import Bench
from airtune.methods.options import given
from airtune.methods.sflllm.options import PLANNER_OPTIONS, SflllmSection
from airtune.methods.sflllm.planner import SflllmPlanner
from airtune.methods.split_parts import depth_of, system_of
from airtune.tuning.split.round import SplitSettings
from airtune.tuning.split.tuner import SplitTuner
from airtune.update.halves import BroadcastHalf, Depth, HalfCodec
from airtune.update.means import HalvesMean


def sflllm(
    model: Any,
    planner: SflllmPlanner,
    system: SplitSystem,
    depth: Depth,
    server_side: str = "shared",
    uplink: HalfCodec | None = None,
    downlink_dtype: str = "fp32",
) -> Method:
    """The composition: plan the split, train both halves together, send and average halves."""
    settings = SplitSettings(server_side, system.labels_at)
    return Method(
        "sflllm",
        planner,
        SplitTuner(model, system.cut, settings, depth.trained_point),
        uplink or HalfCodec(depth),
        HalvesMean(),
        BroadcastHalf(HalfCodec(depth, downlink_dtype)),
        split=system,
    )


def compose(bench: Bench, options: SflllmSection) -> Method:
    """Plan the split, train both halves together, send and average client halves."""
    return split_method(bench.config, bench.model)


def planner(bench: Bench, options: Any) -> SflllmPlanner:
    """The planner alone, beside other parts."""
    return SflllmPlanner(**given(options, PLANNER_OPTIONS), seed=bench.config.seed)


def split_tuner(bench: Bench, options: Any) -> SplitTuner:
    """The tuner alone, beside other parts."""
    return cast(SplitTuner, split_method(bench.config, bench.model).tuner)


def half_codec(bench: Bench, options: Any) -> HalfCodec:
    """The codec alone, beside other parts."""
    codec = split_method(bench.config, bench.model).codec
    return replace(cast(HalfCodec, codec), dtype=options.dtype)


def halves_mean(bench: Bench, options: Any) -> HalvesMean:
    """The aggregator alone, beside other parts."""
    return HalvesMean()


def split_method(config: ExperimentConfig, model: Any) -> Method:
    """The composition that the experiment's section describes."""
    section = config.section(SflllmSection)
    depth = depth_of(config, model)
    system = system_of(model, section, section.labels_at)
    return sflllm(
        model,
        SflllmPlanner(section.solver, section.split_point, section.split_points, config.seed),
        system,
        depth,
        section.server_side,
        HalfCodec(depth, section.uplink_dtype, config.seed),
        section.downlink_dtype,
    )
