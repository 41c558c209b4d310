"""The composition of hetlora: a LoRA rank per client, by what its device can do.

The weakest device trains `rank_min` ranks, the strongest all of `adapter.rank`, the others in
between on a logarithmic scale of their training speed. The server pads with zeros and averages,
weighted by the norms of the updates. The broadcast is the whole adapter.
"""

from typing import Any

from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.federated.method import Method
from airtune.methods.bench import Bench
from airtune.methods.hetlora.options import HetloraSection
from airtune.methods.ranks import ranks_by_speed
from airtune.tuning.partial import FirstRanksTuner
from airtune.update.codec import DenseCodec
from airtune.update.means import ZeroPaddedMean
from airtune.update.partial import FirstRanksCodec


def compose(bench: Bench, options: HetloraSection) -> Method:
    """A rank per client, first ranks trained and sent, zero-padded mean."""
    uplink = FirstRanksCodec(options.uplink_dtype, bench.config.seed)
    return hetlora(rank_planner(bench, options), uplink, options.downlink_dtype)


def rank_planner(bench: Bench, options: Any) -> BandwidthPlanner:
    """The planner with a rank for each client, from its device's speed."""
    speeds = [device.training_flop_rate for device in bench.devices]
    ranks = ranks_by_speed(speeds, options.rank_min, bench.config.adapter.rank, "hetlora.rank_min")
    return BandwidthPlanner(options.bandwidth, bench.config.seed, ranks)


def hetlora(planner: BandwidthPlanner, uplink: FirstRanksCodec, downlink_dtype: str) -> Method:
    """The composition; the planner has the ranks."""
    return Method(
        "hetlora",
        planner,
        FirstRanksTuner(),
        uplink,
        ZeroPaddedMean(),
        DenseCodec(downlink_dtype),
    )
