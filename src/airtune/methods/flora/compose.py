"""The composition of flora: adapters of any rank, their exact mean product in the base.

What a client gets is the stack of all clients' factors of the last round, which it merges into its
base; then it starts from a fresh adapter, drawn from the seed.
"""

from dataclasses import asdict
from typing import Any

from airtune.errors import InputError
from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.federated.method import Exchange, Method
from airtune.methods.bench import Bench
from airtune.methods.flora.options import FloraSection
from airtune.methods.flora.recorded import Measured
from airtune.methods.ranks import ranks_by_speed
from airtune.methods.whole_base import refuse_coarse_base
from airtune.tuning.adapter import AdapterState, trained_parameters
from airtune.tuning.base_change import with_no_change
from airtune.tuning.partial import FirstRanksTuner
from airtune.tuning.tuner import FullTuner
from airtune.update.base_downlink import BaseDownlink, fresh_factors
from airtune.update.codec import shapes_of
from airtune.update.means import product_norm
from airtune.update.merged_base import Stacking, stacked
from airtune.update.partial import FirstRanksCodec
from airtune.update.quantise import whole_codec


def compose(bench: Bench, options: FloraSection) -> Method:
    """Divide the band, train adapters of the clients' ranks, stack, merge into the base."""
    config = bench.config
    refuse_coarse_base("flora", config)
    if config.adapter.start is not None:
        raise InputError(
            "adapter.start",
            config.adapter.start,
            "null with flora, whose clients start from a fresh adapter",
            "merge it into its base, and name that model as model",
        )
    ranks = None
    if options.rank_min is not None:
        speeds = [device.training_flop_rate for device in bench.devices]
        ranks = ranks_by_speed(speeds, options.rank_min, config.adapter.rank, "flora.rank_min")
    cohort = config.cohort.size or config.clients.count
    return Method(
        "flora",
        BandwidthPlanner(options.bandwidth, config.seed, ranks),
        FullTuner() if ranks is None else FirstRanksTuner(),
        whole_codec(options.uplink_dtype, config.seed)
        if ranks is None
        else FirstRanksCodec(options.uplink_dtype, config.seed),
        Stacking(config.seed),
        BaseDownlink(None, config.seed, (ranks or (config.adapter.rank,) * cohort)[:cohort]),
        start=start,
        measure=measure,
    )


def start(model: Any, seed: int) -> AdapterState:
    """The adapter and the base before round 1."""
    return with_no_change(fresh_factors(shapes_of(trained_parameters(model)), seed, 0))


def measure(exchange: Exchange) -> dict[str, float | None]:
    """What is merged into the base."""
    increment = stacked(exchange.start, exchange.updates, 0) if exchange.updates else None
    if increment is None:
        return asdict(Measured(None, None))
    rank = max(len(part) for name, part in increment.factors.items() if ".lora_A." in name)
    return asdict(Measured(float(rank), product_norm(increment.factors)))
