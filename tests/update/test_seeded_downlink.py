"""Sums of coefficients as a broadcast: the mean they are, and what clients make of them."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from airtune.errors import InputError
from airtune.round_plan import ClientPlan
from airtune.tuning.directions import DRAW_FLOPS
from airtune.update.codec import coordinates, flatten, shapes_of
from airtune.update.held_model import held_model, with_held, without_held
from airtune.update.means import FactorMean
from airtune.update.seeded import SeededCodec
from airtune.update.seeded_downlink import SeededDownlink, SeededSum, SumMemory
from airtune.update.server import ServerContext, Update
from airtune.workload.payload import frame_bytes
from tests.update.adapters import random_factors

START = random_factors(1)
SHAPES = shapes_of(START)
SIZE = coordinates(SHAPES)


def plan(client: int = 0) -> ClientPlan:
    return ClientPlan(client=client, bandwidth_hz=1e6, tx_power_w=0.2, rank=2)


def updates_of(codec: SeededCodec, state: Any, changes: dict[int, Any]) -> list[Update]:
    """What clients with 1, 2, 3, ... rows sent in the round that began with this state."""
    bound, updates = codec.in_round(state), []
    for client, change in changes.items():
        payload = bound.encode(change, plan(client))
        decoded = bound.decode(payload, SHAPES, plan(client))
        on = bound.coefficients(payload, SHAPES, plan(client))
        updates.append(Update(client, client + 1.0, decoded, coefficients=on))
    return updates


@pytest.mark.parametrize("distribution", ["gaussian", "orthonormal"])
@pytest.mark.parametrize("allocation", ["best", "norm", "uniform"])
@pytest.mark.parametrize("shrink", [True, False])
def test_the_sum_is_the_mean_of_what_was_sent(
    distribution: Any, allocation: Any, shrink: bool
) -> None:
    """Blocks of other norms in each client, so that their divisions differ."""
    codec = SeededCodec(31, 5, distribution, allocation, shared=True, shrink=shrink)
    changes = {c: random_factors(c + 7, scale=0.1 * (c + 1)) for c in range(3)}
    changes[1][next(iter(changes[1]))] *= 40
    updates = updates_of(codec, START, changes)
    mean = flatten(FactorMean().aggregate(START, updates))
    own, memory = SeededSum(codec).aggregate_in(START, updates, ServerContext())
    assert (flatten(own) - mean).abs().max() < 1e-5 * (mean - flatten(START)).abs().max()
    (added,) = SumMemory.read(memory).sums
    # With divisions by norms, the largest of each block travel.
    assert len(added.numbers) == 31 if allocation == "uniform" else len(added.numbers) > 31
    assert len(added.numbers) == sum(added.counts) <= SIZE


def history(codec: SeededCodec, rounds: int, present: Any) -> tuple[list[Any], list[Any]]:
    """Adapter and memory before each round and after the last; all clients of a round answer."""
    states: list[Any] = [dict(START)]
    memories: list[Any] = [{}]
    for index in range(rounds):
        changes = {c: random_factors(9 * index + c, scale=0.1) for c in present(index)}
        updates = updates_of(codec, states[-1], changes)
        context = ServerContext(index, tuple(present(index)), memories[-1])
        adapter, memory = SeededSum(codec).aggregate_in(states[-1], updates, context)
        states.append(adapter)
        memories.append(memory)
    return states, memories


@pytest.mark.parametrize("distribution", ["gaussian", "orthonormal"])
def test_who_missed_three_rounds_gets_their_sums(distribution: Any) -> None:
    codec = SeededCodec(12, 3, distribution, "uniform", shared=True)
    states, memories = history(codec, 5, lambda index: (0, 1) if index < 2 else (0,))
    downlink = SeededDownlink(codec, START)
    # Client 1 began round 2 with states[1] and lacks the sums of rounds 2 to 5.
    for client, first in ((0, 4), (1, 1), (2, 0)):
        bound = downlink.to_cohort(memories[5], [client], 5)
        payload = bound.encode(states[5], plan(client))
        lacked = 5 - first
        heading = 2 + lacked * (2 + 3)
        expected = {"heading": ("I32", [heading]), "sums": ("F32", [12 * lacked])}
        assert len(payload) == frame_bytes(expected)
        assert 8 * len(payload) == bound.payload_bits(SHAPES, plan(client))
        made = bound.received(payload, states[first], first, SHAPES)
        assert all(torch.equal(made[name], states[5][name]) for name in START)
    # One broadcast for all three: each adds what it lacks.
    bound = downlink.to_cohort(memories[5], [0, 1, 2], 5)
    payload = bound.encode(states[5], plan())
    for first in (4, 1, 0, 3):
        made = bound.received(payload, states[first] if first else {}, first, SHAPES)
        assert all(torch.equal(made[name], states[5][name]) for name in START)
    longest = math.ceil(SIZE / 3)
    padded = 2 ** math.ceil(math.log2(longest))
    once = 3 * padded * (1 + math.log2(padded))
    if distribution == "gaussian":
        once = 12 * longest * (2 + DRAW_FLOPS)
    for client, rounds in ((0, 1), (1, 4), (2, 5)):
        charged = bound.receiver_flops(SHAPES, plan(client))
        assert charged == pytest.approx(rounds * (once + SIZE))


def test_the_model_travels_once_its_numbers_are_fewer() -> None:
    codec = SeededCodec(26, 3, allocation="uniform", shared=True)
    assert 4 * 26 < SIZE <= 5 * 26
    states, memories = history(codec, 6, lambda index: (0, 1) if index == 0 else (0,))
    downlink = SeededDownlink(codec, START)
    for index, whole in ((4, False), (5, True), (6, True)):
        bound = downlink.to_cohort(memories[index], [0, 1], index)
        payload = bound.encode(states[index], plan())
        assert 8 * len(payload) == bound.payload_bits(SHAPES, plan())
        if whole:
            expected = {"heading": ("I32", [2]), "model": ("F32", [SIZE])}
            assert len(payload) == frame_bytes(expected)
            assert bound.receiver_flops(SHAPES, plan(1)) == 0
        made = bound.received(payload, {}, 0, SHAPES)
        assert all(torch.equal(made[name], states[index][name]) for name in START)
    # Nothing is remembered that could never be the shorter message; client 0 needs one sum.
    assert len(SumMemory.read(memories[6]).sums) == 4
    alone = downlink.to_cohort(memories[6], [0], 6)
    assert 8 * frame_bytes({"heading": ("I32", [7]), "sums": ("F32", [26])}) == alone.payload_bits(
        SHAPES, plan()
    )


def test_a_round_without_updates_adds_nothing() -> None:
    codec = SeededCodec(12, 3, shared=True)
    states, memories = history(codec, 2, lambda index: (0,))
    context = ServerContext(2, (0, 1), memories[2])
    same, memory = SeededSum(codec).aggregate_in(states[2], [], context)
    assert all(torch.equal(same[name], states[2][name]) for name in START)
    bound = SeededDownlink(codec, START).to_cohort(memory, [0, 1], 3)
    made = bound.received(bound.encode(same, plan()), {}, 0, SHAPES)
    assert all(torch.equal(made[name], states[2][name]) for name in START)


def test_before_the_first_round_and_before_any() -> None:
    codec = SeededCodec(12, 3, shared=True)
    unbound = SeededDownlink(codec, START)
    usual = {"heading": ("I32", [2 + 2 + 3]), "sums": ("F32", [12])}
    assert unbound.payload_bits(SHAPES, plan()) == 8 * frame_bytes(usual)
    assert unbound.receiver_flops(SHAPES, plan()) > 0
    assert unbound.to_cohort({}, [0], 3) is unbound
    with pytest.raises(ValueError, match="bind"):
        unbound.encode(START, plan())
    first = unbound.to_cohort({}, [0, 1], 0)
    payload = first.encode(START, plan())
    assert 8 * len(payload) == first.payload_bits(SHAPES, plan())
    assert first.receiver_flops(SHAPES, plan()) == 0
    made = first.decode(payload, SHAPES, plan())
    assert all(torch.equal(made[name], START[name]) for name in START)


def test_a_client_without_its_model_is_told() -> None:
    codec = SeededCodec(12, 3, shared=True)
    states, memories = history(codec, 3, lambda index: (0,))
    bound = SeededDownlink(codec, START).to_cohort(memories[3], [0], 3)
    payload = bound.encode(states[3], plan())
    with pytest.raises(InputError, match="from round 3 on"):
        bound.received(payload, {}, 0, SHAPES)


def test_directions_of_ones_own_have_no_sum() -> None:
    bound = SeededCodec(12, 3).in_round(START)
    payload = bound.encode(random_factors(2), plan())
    assert not bound.shares_directions
    assert bound.coefficients(payload, SHAPES, plan()) is None


def test_what_is_kept_lies_beside_the_rest() -> None:
    moments = {"0.exp_avg": torch.ones(2)}
    carried = with_held(with_held(moments, START, 3), START, 4)
    assert without_held(carried) == moments
    model, index = held_model(carried)
    assert index == 4
    assert np.array_equal(flatten(model).numpy(), flatten(START).numpy())
    assert held_model(moments) == ({}, 0)
