"""The composition of fedex_lora: fedlora's mean, and its residual in the base."""

from dataclasses import asdict
from typing import Any

from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.federated.method import Exchange, Method
from airtune.methods.bench import Bench
from airtune.methods.fedex_lora.options import FedexLoraSection
from airtune.methods.fedex_lora.recorded import Measured
from airtune.methods.whole_base import refuse_coarse_base
from airtune.tuning.adapter import AdapterState, initial_state
from airtune.tuning.base_change import with_no_change
from airtune.tuning.tuner import FullTuner
from airtune.update.base_downlink import BaseDownlink
from airtune.update.means import product_norm
from airtune.update.merged_base import MeanAndResidual, residual
from airtune.update.quantise import whole_codec


def compose(bench: Bench, options: FedexLoraSection) -> Method:
    """Divide the band, train all, send all, average; the residual goes into the base."""
    config = bench.config
    refuse_coarse_base("fedex_lora", config)
    cohort = config.cohort.size or config.clients.count
    usual = (config.adapter.rank,) * (cohort - 1)
    return Method(
        "fedex_lora",
        BandwidthPlanner(options.bandwidth, config.seed),
        FullTuner(),
        whole_codec(options.uplink_dtype, config.seed),
        MeanAndResidual(),
        BaseDownlink(options.downlink_dtype, config.seed, usual),
        start=start,
        measure=measure,
    )


def start(model: Any, seed: int) -> AdapterState:
    """The adapter and the base before round 1."""
    return with_no_change(initial_state(model, seed))


def measure(exchange: Exchange) -> dict[str, float | None]:
    """What is merged into the base."""
    if not exchange.updates:
        return asdict(Measured(None, None))
    found = residual(exchange.updates, 0)
    if found is None:
        return asdict(Measured(0.0, 0.0))
    rank = max(len(part) for name, part in found.factors.items() if ".lora_A." in name)
    return asdict(Measured(product_norm(found.factors), float(rank)))
