"""The composition of sflllm, and its parts beside those of other methods."""

from dataclasses import replace
from typing import Any, cast

from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError
from airtune.federated.charging.split_costs import LinkSettings, SplitSystem
from airtune.federated.method import Method
from airtune.methods.bench import Bench
from airtune.methods.options import given
from airtune.methods.sflllm.options import PLANNER_OPTIONS, SflllmSection
from airtune.methods.sflllm.planner import SflllmPlanner
from airtune.quantities import dbm_to_watts
from airtune.tuning.split.tuner import SplitSettings, SplitTuner
from airtune.update.cut import CutCodec
from airtune.update.means import HalvesMean
from airtune.update.partial import BroadcastHalf, Depth, HalfCodec
from airtune.workload.architecture import load_architecture


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
    trained = model.config.num_hidden_layers
    if trained < 2:
        raise InputError("model", f"{trained} block", "a model of at least 2 blocks for sflllm")
    planned = load_architecture(config.charge_as).block_count if config.charge_as else trained
    cut = CutCodec(model.config.vocab_size, section.activation_dtype, section.gradient_dtype)
    system = SplitSystem(
        main=_link(section.main_subchannels, section.main_total_power_dbm),
        federated=_link(section.federated_subchannels, section.federated_total_power_dbm),
        server_flop_rate=section.server_flop_rate,
        cut=cut,
        labels_at=section.labels_at,
        downlink=section.downlink,
        server_power_w=section.server_power_w,
    )
    depth = Depth(planned, trained)
    return sflllm(
        model,
        SflllmPlanner(section.solver, section.split_point, section.split_points, config.seed),
        system,
        depth,
        section.server_side,
        HalfCodec(depth, section.uplink_dtype, config.seed),
        section.downlink_dtype,
    )


def _link(subchannels: int, total_power_dbm: float | None) -> LinkSettings:
    if total_power_dbm is None:
        return LinkSettings(subchannels)
    return LinkSettings(subchannels, float(dbm_to_watts(total_power_dbm)))
