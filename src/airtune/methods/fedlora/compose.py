"""The composition of fedlora.

FedAvg (McMahan et al., arXiv 1602.05629) on LoRA (Hu et al., arXiv 2106.09685).
"""

from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.federated.method import Method
from airtune.methods.bench import Bench
from airtune.methods.fedlora.options import FedloraSection
from airtune.tuning.tuner import FullTuner
from airtune.update.codec import Codec, DenseCodec
from airtune.update.means import FactorMean
from airtune.update.quantise import whole_codec


def compose(bench: Bench, options: FedloraSection) -> Method:
    """Divide the band, train all, send all, average."""
    planner = BandwidthPlanner(options.bandwidth, bench.config.seed)
    uplink = whole_codec(options.uplink_dtype, bench.config.seed)
    return fedlora(planner, uplink, options.downlink_dtype)


def fedlora(planner: BandwidthPlanner, uplink: Codec, downlink_dtype: str) -> Method:
    """The composition with any planner of bandwidth."""
    return Method(
        "fedlora",
        planner,
        FullTuner(),
        uplink,
        FactorMean(),
        DenseCodec(downlink_dtype),
    )
