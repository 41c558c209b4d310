"""A model that a client keeps between its rounds, so that a broadcast brings only what it lacks.

It lies among what the client carries (`federated.records.carried`), in tensors of names of their
own, with the round whose start it was.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from airtune.update.codec import TensorMap

_MODEL, _ROUND = "held model/", "held model of round"


def with_held(carried: TensorMap, model: TensorMap, round_index: int) -> dict[str, Tensor]:
    """What a client carries, with the model that this round began with."""
    kept = {_MODEL + name: tensor for name, tensor in model.items()}
    return {**without_held(carried), **kept, _ROUND: torch.tensor(round_index)}


def without_held(carried: TensorMap) -> dict[str, Tensor]:
    """What else a client carries."""
    return {name: tensor for name, tensor in carried.items() if not name.startswith(_MODEL[:-1])}


def held_model(carried: TensorMap) -> tuple[Mapping[str, Tensor], int]:
    """The model and the round whose start it was; nothing and 0 for a client that has none."""
    if _ROUND not in carried:
        return {}, 0
    model = {
        name.removeprefix(_MODEL): tensor
        for name, tensor in carried.items()
        if name.startswith(_MODEL)
    }
    return model, int(carried[_ROUND])
