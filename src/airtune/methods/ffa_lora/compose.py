"""ffa_lora: federated LoRA with A frozen as it was drawn (Sun et al., arXiv 2403.12313).

Only B is trained and sent, in both directions: half the bytes, and averaging B is averaging B A.
A's gradients are neither computed nor charged.
"""

from collections.abc import Mapping

from torch import Tensor

from airtune.federated.method import Method
from airtune.methods.fedlora.compose import BandwidthPlanner
from airtune.tuning.partial import FrozenATuner
from airtune.update.codec import Codec, DenseCodec
from airtune.update.means import FactorMean
from airtune.update.parts import FactorCodec

_B = ".lora_B."


def ffa_lora(
    planner: BandwidthPlanner,
    drawn: Mapping[str, Tensor] | None,
    uplink_dtype: str,
    downlink_dtype: str,
) -> Method:
    """The composition; `drawn` is the adapter before round 1, whose A every client draws itself.

    None: clients cannot know A, so the broadcast is the whole adapter.
    """
    downlink: Codec = DenseCodec(downlink_dtype)
    if drawn is not None:
        known = {name: tensor for name, tensor in drawn.items() if _B not in name}
        downlink = FactorCodec(_B, downlink_dtype, known)
    return Method(
        "ffa_lora",
        planner,
        FrozenATuner(),
        FactorCodec(_B, uplink_dtype),
        FactorMean(),
        downlink,
    )
