"""Element-wise top-k: the largest coordinates, and the shorter way to say where they are."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from airtune.errors import InputError
from airtune.federated.checks.contracts import check_codec
from airtune.round_plan import ClientPlan
from airtune.update.codec import coordinates, flatten, pack, shapes_of, unpack
from airtune.update.rank_sparse import RankSparseCodec
from airtune.update.top_k import TopKCodec, index_bits, kept_coordinates, places_bytes
from tests.update.adapters import random_factors

PLAN = ClientPlan(client=3, bandwidth_hz=1e6, tx_power_w=0.2, rank=2)
CHANGE = random_factors(1)
COUNT = coordinates(shapes_of(CHANGE))


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.999])
def test_contract(dtype: str, sparsity: float) -> None:
    plan = dataclasses.replace(PLAN, sparsity=sparsity)
    check_codec(TopKCodec(dtype), CHANGE, plan, idempotent=dtype != "int8")


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.99])
def test_the_largest_arrive_and_the_rest_is_zero(sparsity: float) -> None:
    plan = dataclasses.replace(PLAN, sparsity=sparsity)
    decoded = TopKCodec().decode(TopKCodec().encode(CHANGE, plan), shapes_of(CHANGE), plan)
    values, received = flatten(CHANGE), flatten(decoded)
    kept = kept_coordinates(COUNT, sparsity)
    threshold = values.abs().sort(descending=True).values[kept - 1]
    expected = torch.where(values.abs() >= threshold, values, torch.zeros(()))
    assert torch.equal(received, expected)


@given(st.integers(1, 5000), st.floats(0.0, 0.999))
def test_places_take_the_shorter_form(count: int, sparsity: float) -> None:
    change = {"x": torch.from_numpy(np.random.default_rng(count).normal(size=count)).float()}
    plan = dataclasses.replace(PLAN, sparsity=sparsity)
    codec = TopKCodec()
    payload = codec.encode(change, plan)
    assert 8 * len(payload) == codec.payload_bits({"x": (count,)}, plan)
    kept = kept_coordinates(count, sparsity)
    frame = unpack(payload)
    bitmap, indices = -(-count // 8), -(-kept * index_bits(count) // 8)
    assert len(frame["places"]) == min(bitmap, indices) == places_bytes(kept, count)
    decoded = codec.decode(payload, {"x": (count,)}, plan)["x"]
    assert int(decoded.ne(0).sum()) == kept
    assert torch.equal(decoded[decoded.ne(0)], change["x"][decoded.ne(0)])


@pytest.mark.parametrize(("count", "bits"), [(1, 1), (2, 1), (3, 2), (256, 8), (257, 9)])
def test_index_bits(count: int, bits: int) -> None:
    assert index_bits(count) == bits


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"codec\.dtype"):
        TopKCodec("fp8")
    with pytest.raises(InputError, match="sparsity is 1"):
        TopKCodec().payload_bits({"x": (5,)}, dataclasses.replace(PLAN, sparsity=1.0))
    plan = dataclasses.replace(PLAN, sparsity=0.97)
    frame = unpack(TopKCodec().encode(CHANGE, plan))
    with pytest.raises(InputError, match="as planned"):
        TopKCodec().decode(pack(frame), shapes_of(CHANGE), PLAN)
    broken = {**frame, "places": torch.full_like(frame["places"], 255)}
    with pytest.raises(InputError, match="damaged places"):
        TopKCodec().decode(pack(broken), shapes_of(CHANGE), plan)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7])
def test_within_the_bits_of_another_codec(dtype: str, sparsity: float) -> None:
    other = RankSparseCodec("random", dtype)
    codec = TopKCodec(dtype, within=other)
    change = random_factors(4, {"x": (10, 70, 50)})
    plan = ClientPlan(0, 0.0, 0.1, 10, sparsity=sparsity)
    check_codec(codec, change, plan, idempotent=dtype != "int8")
    budget = other.payload_bits(shapes_of(change), plan)
    bits = codec.payload_bits(shapes_of(change), plan)
    # One more number would not fit; frames are padded to eight bytes.
    assert budget - 200 < bits <= budget
