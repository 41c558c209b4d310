"""A codec of the shared tensors alone, where others stay at the clients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, final

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan
from airtune.tuning.personal import personal_names
from airtune.update.codec import Codec, Shapes, TensorMap
from airtune.workload.architecture import Decoder

Value = TypeVar("Value")


@final
@dataclass(frozen=True, eq=False)
class SharedCodec(Codec):
    """What `codec` makes of the tensors that no pattern names; the others never travel.

    `known` has what a receiver of a broadcast puts in their place, their values before round 1; in
    an update they did not change.
    """

    codec: Codec
    patterns: tuple[str, ...]
    known: TensorMap | None = None

    def __post_init__(self) -> None:
        for name in ("honours", "requires", "on_factors"):
            object.__setattr__(self, name, getattr(self.codec, name))

    def in_round(self, broadcast: TensorMap) -> "SharedCodec":
        return replace(self, codec=self.codec.in_round(broadcast))

    def charged_as(self, architecture: Decoder) -> "SharedCodec":
        return replace(self, codec=self.codec.charged_as(architecture))

    def trained(self, plan: ClientPlan) -> TensorMap | None:
        kept = self.codec.trained(plan)
        return None if kept is None else self._without(kept)

    def sent(self, payload: bytes, template: Shapes, plan: ClientPlan) -> TensorMap | None:
        sent = self.codec.sent(payload, self._shared(template), plan)
        if sent is None:
            return None
        nothing = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in template.items()}
        return {**nothing, **sent}

    def reported(self, payload: bytes, template: Shapes) -> list[float] | None:
        return self.codec.reported(payload, self._shared(template))

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        return self.codec.encode(self._shared(change), plan)

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        shared = self.codec.decode(payload, self._shared(template), plan)
        return {
            name: shared[name] if name in shared else self._rest(name, shape)
            for name, shape in template.items()
        }

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        return self.codec.payload_bits(self._shared(shapes), plan)

    def encoding_flops(self, shapes: Shapes, plan: ClientPlan) -> float:
        return self.codec.encoding_flops(self._shared(shapes), plan)

    def receiver_flops(self, shapes: Shapes, plan: ClientPlan) -> float:
        return self.codec.receiver_flops(self._shared(shapes), plan)

    def affine_bits(self, shapes: Shapes, plan: ClientPlan) -> tuple[float, float]:
        return self.codec.affine_bits(self._shared(shapes), plan)

    def _shared(self, tensors: Mapping[str, Value]) -> dict[str, Value]:
        personal = set(checked_names(tensors, self.patterns))
        return {name: value for name, value in tensors.items() if name not in personal}

    def _without(self, masks: TensorMap) -> dict[str, Tensor]:
        personal = set(personal_names(masks, self.patterns))
        return {
            name: torch.zeros_like(mask) if name in personal else mask
            for name, mask in masks.items()
        }

    def _rest(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape) if self.known is None else self.known[name].clone()


def checked_names(tensors: Mapping[str, object], patterns: Sequence[str]) -> list[str]:
    """The personal tensors; InputError for patterns that name none of them, or all."""
    names = personal_names(tensors, patterns)
    for pattern in patterns:
        if not personal_names(tensors, [pattern]):
            raise InputError(
                "adapter.personal",
                pattern,
                f"a pattern that names a trained tensor, such as *{_ending(tensors)}",
                "with charge_as it must name tensors of both models",
            )
    if len(names) == len(tensors):
        raise InputError(
            "adapter.personal",
            ", ".join(patterns),
            "patterns that leave some tensors to be shared",
            "nothing would be federated",
        )
    return names


def _ending(tensors: Mapping[str, object]) -> str:
    return ".".join(next(iter(tensors)).split(".")[-3:])
