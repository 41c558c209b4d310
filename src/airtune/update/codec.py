"""What a client sends, as bytes. Bits are counted from the bytes that the encoder made.

An update travels as a safetensors frame, which is its own proof of length: eight bytes of header
length, a JSON header, the data. Names and shapes are agreed before round 1, so a dense update is
ONE flat tensor, not a header entry per matrix.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan, Decision
from airtune.workload.architecture import Decoder
from airtune.workload.payload import flat_update_bits

TensorMap = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]

WIRE_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Codec(ABC):
    """Turns a change of the adapter into bytes and back.

    Contract, checked for every codec by `airtune check-part`: `payload_bits` equals
    8 x the length of what `encode` makes, before any training happened; `decode` returns the
    template's names and shapes, with 0 where `sent` is False; encoding the decoded change again
    gives the same bytes, unless numbers are rounded at random. `pack` in `encode` goes with
    `workload.payload.frame_bytes` in `payload_bits`; `Int8Codec` is a template for both.

    A payload has named sections: the change (`decode`), the mask of what was chosen (`sent`), and
    the report for the next plan (`reported`). All are counted.

    `honours`: decisions of a plan that decide what travels; `requires`: decisions without which
    nothing can be encoded. `leaves_out`: parts of tensor names that never travel. `on_factors`: it
    sends LoRA's factors, not any trained parameter. `carries_base`: a downlink that also sends what
    was merged into the base. `takes_any_tensors`: it can send some of an adapter's tensors as well
    as all of them. `takes_coefficients`: `encode` is given what the tuner found on directions from
    a seed (`LocalResult.coefficients`), not a change. `shares_directions`: all clients of a round
    send coefficients on the same directions, which a server may sum (`coefficients`).
    `carries_coefficients`: a downlink that sends such sums, from which clients rebuild the model.
    `keeps_model`: a downlink whose message says how the model that a client keeps has changed
    (`received`).
    """

    honours: frozenset[Decision] = frozenset()
    requires: frozenset[Decision] = frozenset()
    on_factors: bool = False
    carries_base: bool = False
    takes_any_tensors: bool = False
    takes_coefficients: bool = False
    carries_coefficients: bool = False
    keeps_model: bool = False

    @property
    def shares_directions(self) -> bool:
        """Whether a server may sum the coefficients of a round's clients."""
        return False

    @property
    def leaves_out(self) -> frozenset[str]:
        """Parts of the names of tensors that never travel."""
        return frozenset()

    def in_round(self, broadcast: TensorMap) -> "Codec":
        """This codec in a round that began with `broadcast`, as the client decoded it.

        Both ends have it, so a codec may derive from it what then need not be sent (a mask).
        """
        return self

    def to_cohort(self, memory: TensorMap, cohort: Sequence[int], round_index: int) -> "Codec":
        """This codec as the downlink of a round, from what the aggregator remembers.

        For a broadcast whose content depends on what these clients hold already.
        """
        return self

    def receiver_flops(self, shapes: Shapes, plan: ClientPlan) -> float:
        """What a client computes to make its start of the broadcast, beside reading it [FLOP]."""
        return 0.0

    def charged_as(self, architecture: Decoder) -> "Codec":
        """This codec as it predicts payloads of another model than the trained one.

        For codecs whose `payload_bits` needs more than shapes.
        """
        return self

    def trained(self, plan: ClientPlan) -> TensorMap | None:
        """True where a client with this plan trains and sends a coordinate; None: everywhere."""
        return None

    def sent(self, payload: bytes, template: Shapes, plan: ClientPlan) -> TensorMap | None:
        """True where this payload carries a coordinate, in the template's shapes; None: wherever
        the client trained.

        The payload's own mask, for codecs that choose by what was trained. What is carried may well
        be 0 (int8 rounds small changes to it), so the change itself does not show it.
        """
        return None

    def reported(self, payload: bytes, template: Shapes) -> list[float] | None:
        """What the client reported beside its change, for the next plan; None: nothing."""
        return None

    def received(
        self, payload: bytes, held: TensorMap, held_round: int, template: Shapes
    ) -> dict[str, Tensor]:
        """A client's start, of a broadcast and the model with which its last round began.

        For downlinks of which `keeps_model`; `held` is empty, and the round 0, for a client that
        comes for the first time.
        """
        raise NotImplementedError(f"{type(self).__qualname__} keeps no model")

    def coefficients(self, payload: bytes, template: Shapes, plan: ClientPlan) -> Tensor | None:
        """What a payload has on directions that all clients share [direction]; None: nothing."""
        return None

    @abstractmethod
    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        """The bytes that a client with this plan sends."""

    @abstractmethod
    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        """The change that the server reads, fp32, in the template's names and shapes."""

    @abstractmethod
    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        """Predicted length of `encode`'s answer [bit]."""

    def encoding_flops(self, shapes: Shapes, plan: ClientPlan) -> float:
        """What a client computes to encode an update [FLOP], where that is more than to read it."""
        return 0.0

    def affine_bits(self, shapes: Shapes, plan: ClientPlan) -> tuple[float, float]:
        """`fixed` and `prunable` with `fixed + (1 - rate) prunable` at most `payload_bits` [bit].

        At every pruning rate that can be realised; a codec that sends no less of a pruned client
        has only `fixed`.
        """
        return float(self.payload_bits(shapes, plan)), 0.0


def shapes_of(state: TensorMap) -> dict[str, tuple[int, ...]]:
    """Names and shapes, which both ends have before round 1."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def coordinates(shapes: Shapes) -> int:
    """How many numbers tensors of these shapes hold."""
    return sum(map(prod, shapes.values()))


def pack(tensors: TensorMap) -> bytes:
    """A safetensors frame of these tensors."""
    from safetensors.torch import save

    return bytes(save(dict(tensors)))


def unpack(payload: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors frame; a damaged frame is an InputError."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(payload))
    except SafetensorError as error:
        raise InputError("payload", f"damaged ({error})", "a whole safetensors frame") from None


def flatten(tensors: TensorMap) -> Tensor:
    """All coordinates as one vector, tensors in the order of their names.

    Both ends must agree on the order, and a mapping's own order changes on its way through a file.
    """
    return torch.cat([tensors[name].reshape(-1) for name in sorted(tensors)])


def unflatten(vector: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    """The inverse of `flatten`."""
    if vector.numel() != coordinates(shapes):
        raise InputError(
            "payload",
            f"{vector.numel()} numbers",
            f"{coordinates(shapes)} numbers for this adapter",
        )
    names = sorted(shapes)
    pieces = torch.split(vector, [prod(shapes[name]) for name in names])
    parts = {name: piece.reshape(shapes[name]) for name, piece in zip(names, pieces, strict=True)}
    return {name: parts[name] for name in shapes}


@final
@dataclass(frozen=True)
class DenseCodec(Codec):
    """Every coordinate, as fp32, fp16 or bf16 (round to nearest)."""

    takes_any_tensors = True
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        if self.dtype not in WIRE_DTYPES:
            raise InputError("codec.dtype", self.dtype, f"one of {', '.join(WIRE_DTYPES)}")

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        return pack({"update": flatten(change).to(WIRE_DTYPES[self.dtype])})

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        return unflatten(unpack(payload)["update"].to(torch.float32), template)

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        return flat_update_bits(coordinates(shapes), self.dtype)
