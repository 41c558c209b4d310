"""What every codec must keep, whatever it sends."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from airtune.round_plan import ClientPlan
from airtune.update.codec import Codec, shapes_of

Encode = Callable[[Mapping[str, Tensor]], bytes]


def check_codec(
    codec: Codec,
    change: Mapping[str, Tensor],
    plan: ClientPlan,
    encode: Encode | None = None,
    *,
    idempotent: bool = True,
) -> dict[str, Tensor]:
    """Predicted bits are encoded bits; decoding keeps names and shapes; encoding is deterministic.

    Returns what was decoded. `encode` is for codecs that want more than change and plan.
    """
    encode = encode or (lambda tensors: codec.encode(tensors, plan))
    before = {name: tensor.clone() for name, tensor in change.items()}
    payload = encode(change)
    assert all(torch.equal(change[name], before[name]) for name in change), "encode altered it"
    assert payload == encode(change)
    assert 8 * len(payload) == codec.payload_bits(shapes_of(change), plan)
    decoded = codec.decode(payload, shapes_of(change), plan)
    assert shapes_of(decoded) == shapes_of(change)
    assert list(decoded) == list(change)
    assert all(tensor.dtype == torch.float32 for tensor in decoded.values())
    if idempotent:
        assert encode(decoded) == payload
    return decoded
