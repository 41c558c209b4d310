"""ffa_lora: federated LoRA with A frozen as it was drawn (Sun et al., arXiv 2403.12313).

Only B is trained and sent, in both directions: half the bytes, and averaging B is averaging B A.
A's gradients are neither computed nor charged.
"""

from collections.abc import Mapping

from torch import Tensor

from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.federated.method import Method
from airtune.methods.bench import Bench
from airtune.methods.ffa_lora.options import FfaLoraSection
from airtune.tuning.adapter import initial_state
from airtune.tuning.partial import FrozenATuner
from airtune.update.codec import Codec, DenseCodec
from airtune.update.means import FactorMean
from airtune.update.partial import FactorCodec

_B = ".lora_B."


def compose(bench: Bench, options: FfaLoraSection) -> Method:
    """Divide the band, train and send B, average."""
    config = bench.config
    planner = BandwidthPlanner(options.bandwidth, config.seed)
    # No client can draw the A of a warm start itself, so it travels with every broadcast.
    drawn = None if config.adapter.start else initial_state(bench.model, config.seed)
    uplink = FactorCodec(_B, options.uplink_dtype, seed=config.seed)
    return ffa_lora(planner, drawn, uplink, options.downlink_dtype)


def ffa_lora(
    planner: BandwidthPlanner,
    drawn: Mapping[str, Tensor] | None,
    uplink: FactorCodec,
    downlink_dtype: str,
) -> Method:
    """The composition; `drawn` is the adapter before round 1, whose A every client draws itself.

    None: clients cannot draw A, so the broadcast is the whole adapter.
    """
    downlink: Codec = DenseCodec(downlink_dtype)
    if drawn is not None:
        known = {name: tensor for name, tensor in drawn.items() if _B not in name}
        downlink = FactorCodec(_B, downlink_dtype, known)
    return Method(
        "ffa_lora",
        planner,
        FrozenATuner(),
        uplink,
        FactorMean(),
        downlink,
    )
