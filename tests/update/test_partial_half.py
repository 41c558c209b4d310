"""A party of a split model sends its own half, counted to the bit."""

import pytest
import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import MAIN_SERVER, ClientPlan
from airtune.update.codec import DenseCodec, shapes_of
from airtune.update.halves import BroadcastHalf, Depth, HalfCodec, block_of
from airtune.update.means import HalvesMean
from airtune.update.server import Update

NAMES = [
    f"base_model.model.model.layers.{block}.mlp.up_proj.lora_{factor}.weight"
    for block in (0, 1, 2, 10)
    for factor in "AB"
]
SAME = Depth(planned=11, trained=11)


def state(seed: int = 0) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, 3 + k, generator=source) for k, name in enumerate(NAMES)}


def plan(client: int, split_point: int) -> ClientPlan:
    return ClientPlan(client, 0.0, 0.1, 2, split_point=split_point)


def names_below(block: int) -> list[str]:
    return [name for name in NAMES if block_of(name) < block]


def test_blocks_by_name() -> None:
    assert [block_of(name) for name in NAMES[::2]] == [0, 1, 2, 10]
    assert block_of("base_model.model.transformer.h.7.attn.c_attn.lora_A.weight") == 7
    assert block_of("base_model.model.model.decoder.project_in.lora_A.weight") == 0


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("point", [1, 2, 3, 10])
def test_a_half_is_what_its_party_holds(point: int, dtype: str) -> None:
    codec, change = HalfCodec(SAME, dtype), state()
    for party in (plan(4, point), plan(MAIN_SERVER, point)):
        payload = codec.encode(change, party)
        assert 8 * len(payload) == codec.payload_bits(shapes_of(change), party)
        decoded = codec.decode(payload, shapes_of(change), party)
        below = set(names_below(point))
        held = [n for n in NAMES if (n in below) == (party.client != MAIN_SERVER)]
        assert list(decoded) == held
        # What never travels is not rounded.
        exact = dtype == "fp32" or party.client == MAIN_SERVER
        # int8 is off by less than a step of its scale, the largest number over 127.
        step = max(float(tensor.abs().max()) for tensor in change.values()) / 127
        rough = 0.0 if exact or dtype != "int8" else step
        for name in held:
            near = 0.0 if exact or rough else 2**-8
            assert torch.allclose(decoded[name], change[name], rtol=near, atol=rough)
        if not rough:
            assert codec.encode(decoded, party) == payload


def test_the_whole_adapter_is_counted_before_a_split_is_planned() -> None:
    whole = ClientPlan(0, 0.0, 0.1, 2)
    shapes = shapes_of(state())
    assert HalfCodec(SAME).payload_bits(shapes, whole) == DenseCodec().payload_bits(shapes, whole)


def test_a_broadcast_serves_every_cut_up_to_the_deepest() -> None:
    codec, values = BroadcastHalf(HalfCodec(SAME)), state()
    payload = codec.encode(values, plan(3, 3))
    assert 8 * len(payload) == codec.payload_bits(shapes_of(values), plan(3, 3))
    for point in (1, 2, 3):
        received = codec.decode(payload, shapes_of(values), plan(0, point))
        assert list(received) == names_below(point)
        assert all(torch.equal(received[name], values[name]) for name in received)
    with pytest.raises(InputError, match="adapter of some first blocks"):
        codec.decode(
            DenseCodec().encode({"x": torch.zeros(5)}, plan(0, 1)), shapes_of(values), plan(0, 1)
        )


@pytest.mark.parametrize(
    ("planned", "trained", "pairs"),
    [
        (12, 6, {1: 1, 2: 1, 6: 3, 11: 5}),
        (4, 24, {1: 6, 2: 12, 3: 18}),
        (12, 2, {1: 1, 11: 1}),
        (6, 6, {1: 1, 3: 3, 5: 5}),
    ],
)
def test_cuts_lie_at_the_same_depth(planned: int, trained: int, pairs: dict[int, int]) -> None:
    depth = Depth(planned, trained)
    assert {point: depth.trained_point(point) for point in pairs} == pairs


def test_halves_are_merged_with_the_main_server_among_the_updates() -> None:
    start, codec = state(), HalfCodec(SAME)
    change = {name: torch.ones_like(value) for name, value in start.items()}
    updates = [
        Update(
            party.client, weight, codec.decode(codec.encode(change, party), shapes_of(start), party)
        )
        for party, weight in ((plan(0, 1), 1.0), (plan(5, 2), 3.0), (plan(MAIN_SERVER, 1), 0.0))
    ]
    merged = HalvesMean().aggregate(start, updates)
    assert list(merged) == NAMES
    for name in NAMES:
        torch.testing.assert_close(merged[name], start[name] + 1.0)


def test_formats() -> None:
    with pytest.raises(InputError, match=r"codec\.dtype is int4"):
        HalfCodec(SAME, "int4")
