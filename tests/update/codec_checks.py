"""What every codec must keep, whatever it sends."""

from collections.abc import Mapping

import torch
from torch import Tensor

from airtune.round_plan import ClientPlan
from airtune.update.codec import Codec, shapes_of


def check_codec(
    codec: Codec,
    change: Mapping[str, Tensor],
    plan: ClientPlan,
    *,
    idempotent: bool = True,
) -> dict[str, Tensor]:
    """Predicted bits are encoded bits; decoding keeps names and shapes; encoding is deterministic.

    What is outside the payload's own mask is 0. A codec that is not `idempotent` rounds at random,
    so that encoding the decoded change again may give other bytes. Returns what was decoded.
    """
    before = {name: tensor.clone() for name, tensor in change.items()}
    payload = codec.encode(change, plan)
    assert all(torch.equal(change[name], before[name]) for name in change), "encode altered it"
    assert payload == codec.encode(change, plan)
    assert 8 * len(payload) == codec.payload_bits(shapes_of(change), plan)
    decoded = codec.decode(payload, shapes_of(change), plan)
    assert shapes_of(decoded) == shapes_of(change)
    assert list(decoded) == list(change)
    assert all(tensor.dtype == torch.float32 for tensor in decoded.values())
    sent = codec.sent(payload, shapes_of(change), plan)
    if sent is not None:
        assert shapes_of(sent) == shapes_of(change)
        assert not any(decoded[name][~sent[name]].any() for name in change)
    if idempotent:
        assert codec.encode(decoded, plan) == payload
    return decoded
