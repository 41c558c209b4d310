"""Every codec keeps the contract: predicted bits are encoded bits, and decoding gives it back."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load

from airtune.errors import InputError
from airtune.round_plan import ClientPlan
from airtune.update.codec import Codec, DenseCodec, flatten, shapes_of, unflatten

PLAN = ClientPlan(client=3, bandwidth_hz=1e6, tx_power_w=0.2, rank=2)
SHAPES: dict[str, tuple[int, ...]] = {
    "a.lora_A.weight": (2, 5),
    "a.lora_B.weight": (7, 2),
    "b.lora_A.weight": (2, 1),
}


def _change(seed: int, shapes: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=source) for name, shape in shapes.items()}


@pytest.mark.parametrize("codec", [DenseCodec("fp32"), DenseCodec("fp16"), DenseCodec("bf16")])
def test_contract(codec: Codec) -> None:
    change = _change(1)
    payload = codec.encode(change, PLAN)
    assert 8 * len(payload) == codec.payload_bits(shapes_of(change), PLAN)
    decoded = codec.decode(payload, shapes_of(change), PLAN)
    assert shapes_of(decoded) == SHAPES
    assert all(tensor.dtype == torch.float32 for tensor in decoded.values())
    assert codec.encode(decoded, PLAN) == payload


@pytest.mark.parametrize(("dtype", "error"), [("fp32", 0.0), ("fp16", 2**-11), ("bf16", 2**-8)])
def test_dense_rounds_to_nearest(dtype: str, error: float) -> None:
    change = _change(2)
    codec = DenseCodec(dtype)
    decoded = codec.decode(codec.encode(change, PLAN), SHAPES, PLAN)
    for name, tensor in change.items():
        assert ((decoded[name] - tensor).abs() <= error * tensor.abs() + 1e-12).all()


def test_a_payload_is_a_safetensors_frame_of_one_flat_tensor() -> None:
    change = _change(3)
    frame = load(DenseCodec().encode(change, PLAN))
    assert list(frame) == ["update"]
    assert torch.equal(frame["update"], flatten(change))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6))
def test_flatten_and_back(extents: list[tuple[int, int]]) -> None:
    shapes: dict[str, tuple[int, ...]] = {f"t{i}": pair for i, pair in enumerate(extents)}
    change = _change(4, shapes)
    back = unflatten(flatten(change), shapes)
    assert all(torch.equal(back[name], change[name]) for name in shapes)
    assert DenseCodec().payload_bits(shapes, PLAN) == 8 * len(DenseCodec().encode(change, PLAN))


def test_order_of_a_mapping_does_not_matter() -> None:
    change = _change(6)
    turned = dict(reversed(change.items()))
    payload = DenseCodec().encode(change, PLAN)
    assert DenseCodec().encode(turned, PLAN) == payload
    decoded = DenseCodec().decode(payload, shapes_of(turned), PLAN)
    assert all(torch.equal(decoded[name], change[name]) for name in change)


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"codec\.dtype is int3, but it must be one of fp32"):
        DenseCodec("int3")
    payload = DenseCodec().encode(_change(5), PLAN)
    with pytest.raises(InputError, match="payload is damaged"):
        DenseCodec().decode(payload[:-3], SHAPES, PLAN)
    wrong: dict[str, Any] = {**SHAPES, "c": (4,)}
    with pytest.raises(InputError, match="26 numbers, but it must be 30 numbers"):
        DenseCodec().decode(payload, wrong, PLAN)
