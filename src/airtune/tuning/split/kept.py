"""Client halves that stay at their clients from round to round, as what a client carries over.

`own/<tensor>` is the half as it is now, `got/<tensor>` as it was when the mean came down: what the
next mean is a change of.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from airtune.tuning.adapter import AdapterState

OWN, GOT = "own/", "got/"
_SENT = "sent"


def own_half(carried: Mapping[str, Tensor]) -> AdapterState:
    """The half that a client kept, by tensor name; empty where it kept none."""
    return _under(OWN, carried)


def received_half(carried: Mapping[str, Tensor]) -> AdapterState:
    """The half as it last came down; empty where the client never received one."""
    return _under(GOT, carried)


def kept_half(own: Mapping[str, Tensor], received: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a client carries whose half is not averaged now; `received` is empty where no half ever
    comes down."""
    return {OWN + name: value for name, value in own.items()} | {
        GOT + name: value for name, value in received.items()
    }


def sent_half(round_index: int) -> dict[str, Tensor]:
    """What is left once a half was sent to be averaged: no half, which the next mean replaces."""
    return {_SENT: torch.tensor(round_index)}


def holds_half(carried: Mapping[str, Tensor]) -> bool:
    """Whether this is what a client carries whose half stays with it, or was sent just now."""
    return any(name.startswith(OWN) or name == _SENT for name in carried)


def _under(prefix: str, carried: Mapping[str, Tensor]) -> AdapterState:
    return {
        name.removeprefix(prefix): value
        for name, value in carried.items()
        if name.startswith(prefix)
    }
