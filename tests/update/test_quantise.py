"""Stochastic rounding: unbiased, bounded, repeatable; and the frames it travels in."""

import math

import numpy as np
import pytest
import torch

from airtune.errors import InputError
from airtune.federated.checks.contracts import check_codec
from airtune.round_plan import ClientPlan
from airtune.seeds import generator
from airtune.update.codec import flatten, pack, shapes_of
from airtune.update.quantise import (
    NUMBER_FORMATS,
    Int8Codec,
    content_draws,
    from_wire,
    to_wire,
    wire_frame,
)
from airtune.workload.payload import frame_bytes
from tests.update.adapters import random_factors

PLAN = ClientPlan(client=3, bandwidth_hz=1e6, tx_power_w=0.2, rank=2)


def through(
    values: torch.Tensor, number_format: str, seed: int = 0, block: int = 4
) -> torch.Tensor:
    wire = to_wire("v", values, number_format, lambda: generator(seed, "test"), block)
    return from_wire(wire, "v", number_format, block)


@pytest.mark.parametrize("number_format", NUMBER_FORMATS)
@pytest.mark.parametrize("count", [0, 1, 4, 5, 131])
def test_frames_are_predicted(number_format: str, count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(1))
    wire = to_wire("v", values, number_format, lambda: generator(0, "test"), 4)
    assert len(pack(wire)) == frame_bytes(wire_frame("v", count, number_format, 4))
    assert from_wire(wire, "v", number_format, 4).shape == (count,)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e20])
def test_error_is_below_one_step_of_the_block(scale: float) -> None:
    values = scale * torch.randn(403, generator=torch.Generator().manual_seed(2))
    error = (through(values, "int8", block=16) - values).abs()
    for start in range(0, 403, 16):
        step = float(values[start : start + 16].abs().max()) / 127
        assert float(error[start : start + 16].max()) <= step * (1 + 1e-5)


def test_rounding_is_unbiased() -> None:
    values = torch.tensor([1.0, 0.3, -0.7, 0.001, 0.0, -1e-4, 0.123456, 0.99])
    draws = 4000
    received = torch.stack([through(values, "int8", seed, block=8) for seed in range(draws)])
    step = 1.0 / 127
    # A step is taken or not: the variance of one draw is at most step^2 / 4.
    tolerance = 5 * step / 2 / math.sqrt(draws)
    assert (received.mean(0) - values).abs().max() < tolerance
    assert (received.amax(0) - received.amin(0))[1] == pytest.approx(step)
    assert (received[:, 0] == 1.0).all(), "the largest of a block is exact"
    assert (received[:, 4] == 0.0).all(), "zero is exact"


def test_blocks_have_scales_of_their_own() -> None:
    values = torch.tensor([100.0, -50.0, 1e-3, 2e-3, 0.0, 0.0, 3.0])
    received = through(values, "int8", block=2)
    assert received[3] == pytest.approx(2e-3, rel=1e-6)
    assert received[2] == pytest.approx(1e-3, abs=2e-3 / 127)
    assert received[4:].tolist() == pytest.approx([0.0, 0.0, 3.0])


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -float("inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="finite to travel as int8"):
        through(torch.tensor([1.0, value]), "int8")


def test_draws_follow_the_content() -> None:
    change = flatten(random_factors(1))
    one, again = (content_draws(0, 3, change).random(4) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    nudged = change.clone()
    nudged[5] += 1e-6
    for other in (
        content_draws(0, 3, nudged),
        content_draws(1, 3, change),
        content_draws(0, 4, change),
    ):
        assert not np.array_equal(one, other.random(4))


@pytest.mark.parametrize("block", [1, 7, 128])
def test_int8_codec_keeps_the_contract(block: int) -> None:
    codec = Int8Codec(block)
    change = random_factors(3)
    decoded = check_codec(codec, change, PLAN, idempotent=False)
    error = (flatten(decoded) - flatten(change)).abs().max()
    assert error <= flatten(change).abs().max() / 127 * (1 + 1e-5)
    if block == 1:
        torch.testing.assert_close(flatten(decoded), flatten(change), rtol=1e-6, atol=0)


def test_int8_codec_refusals() -> None:
    with pytest.raises(InputError, match=r"codec\.block is 0"):
        Int8Codec(0)
    payload = Int8Codec().encode(random_factors(3), PLAN)
    shapes = shapes_of(random_factors(3))
    with pytest.raises(InputError, match="payload"):
        Int8Codec().decode(payload, {**shapes, "more": (2, 2)}, PLAN)
