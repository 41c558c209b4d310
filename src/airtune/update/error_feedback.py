"""Error feedback: what a lossy codec left out is added to the client's next change.

`sent_t = decode(encode(change_t + residual_t))`, `residual_{t+1} = change_t + residual_t - sent_t`
(Seide et al., Interspeech 2014; Karimireddy et al., arXiv 1901.09847, algorithm 1). The residual
is added before anything is selected, so that what was left out long enough is sent at last.
"""

from collections.abc import Mapping

from torch import Tensor

_PREFIX = "residual/"


def add_residual(change: Mapping[str, Tensor], carried: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The change plus what this client carries over from its last round, if anything."""
    return {
        name: tensor + carried[_PREFIX + name] if _PREFIX + name in carried else tensor
        for name, tensor in change.items()
    }


def residual(wanted: Mapping[str, Tensor], sent: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the client carries over, under names that no other carried tensor has.

    `wanted` is the change after `add_residual`; `sent` is what the server decoded of it, all zero
    if nothing arrived.
    """
    return {_PREFIX + name: tensor - sent[name] for name, tensor in wanted.items()}


def holds_residual(carried: Mapping[str, Tensor]) -> bool:
    """Whether a client carries a residual among other things."""
    return any(name.startswith(_PREFIX) for name in carried)


def without_residual(carried: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a tuner carried over: everything but the residual."""
    return {name: tensor for name, tensor in carried.items() if not name.startswith(_PREFIX)}


def add_lost(carried: Mapping[str, Tensor], sent: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a client carries over after all when what it sent came too late: that as well."""
    return {
        name: tensor + sent[name.removeprefix(_PREFIX)] if name.startswith(_PREFIX) else tensor
        for name, tensor in carried.items()
    }
