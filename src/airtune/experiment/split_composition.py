"""The composition of sflllm, from the experiment and the adapted model."""

from typing import Any

from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError
from airtune.federated.charging.split_costs import LinkSettings, SplitSystem
from airtune.federated.method import Method
from airtune.methods.sflllm.planner import SflllmPlanner, sflllm
from airtune.quantities import dbm_to_watts
from airtune.update.cut import CutCodec
from airtune.update.parts import Depth
from airtune.workload.architecture import load_architecture


def split_method(config: ExperimentConfig, model: Any) -> Method:
    """sflllm as the experiment's section asks."""
    section = config.sflllm
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
    return sflllm(
        model,
        SflllmPlanner(section.solver, section.split_point, section.split_points, config.seed),
        system,
        Depth(planned, trained),
        section.server_side,
        section.uplink_dtype,
        section.downlink_dtype,
    )


def _link(subchannels: int, total_power_dbm: float | None) -> LinkSettings:
    if total_power_dbm is None:
        return LinkSettings(subchannels)
    return LinkSettings(subchannels, float(dbm_to_watts(total_power_dbm)))
