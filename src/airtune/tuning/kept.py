"""A part of the adapter that stays at its client from round to round, as what the client carries.

It is the client half of a split model, or the tensors of `adapter.personal`. `own/<tensor>` is the
part as it is now, `got/<tensor>` as it was when the mean came down: what the next mean is a change
of.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from airtune.tuning.adapter import AdapterState

OWN, GOT = "own/", "got/"
_SENT = "sent"


def own_part(carried: Mapping[str, Tensor]) -> AdapterState:
    """The part that a client kept, by tensor name; empty where it kept none."""
    return _under(OWN, carried)


def received_part(carried: Mapping[str, Tensor]) -> AdapterState:
    """The part as it last came down; empty where the client never received one."""
    return _under(GOT, carried)


def kept_part(own: Mapping[str, Tensor], received: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a client carries whose part is not averaged now; `received` is empty where it never
    comes down."""
    return {OWN + name: value for name, value in own.items()} | {
        GOT + name: value for name, value in received.items()
    }


def sent_mark(round_index: int) -> dict[str, Tensor]:
    """What is left once a part was sent to be averaged: a mark, for the next mean replaces it."""
    return {_SENT: torch.tensor(round_index)}


def holds_part(carried: Mapping[str, Tensor]) -> bool:
    """Whether this is what a client carries whose part stays with it, or was sent just now."""
    return any(name.startswith(OWN) or name == _SENT for name in carried)


def _under(prefix: str, carried: Mapping[str, Tensor]) -> AdapterState:
    return {
        name.removeprefix(prefix): value
        for name, value in carried.items()
        if name.startswith(prefix)
    }
