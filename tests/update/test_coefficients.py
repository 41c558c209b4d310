"""Coefficients on candidate directions: messages, sums, and the model that they say."""

from typing import Any

import numpy as np
import pytest
import torch

from airtune.errors import DivergedError, InputError
from airtune.round_plan import ClientPlan
from airtune.seeds import generator
from airtune.tuning.directions import DRAW_FLOPS, Directions, SeededModel
from airtune.update.codec import coordinates, flatten, pack, shapes_of
from airtune.update.coefficients import (
    CoefficientCodec,
    CoefficientDownlink,
    CoefficientMemory,
    CoefficientSum,
    unpacked,
)
from airtune.update.server import ServerContext, Update
from airtune.workload.payload import frame_bytes
from tests.update.adapters import random_factors

START = random_factors(1)
SHAPES = shapes_of(START)
SIZE = coordinates(SHAPES)
COUNT = 40
DIRECTIONS = Directions(7, COUNT)


def plan(client: int = 0) -> ClientPlan:
    return ClientPlan(client=client, bandwidth_hz=1e6, tx_power_w=0.2, rank=2)


def direction(index: int) -> np.ndarray:
    draws = generator(7, "candidate direction", index)
    return draws.standard_normal(SIZE, dtype=np.float32).astype(float)


def spoken(numbers: torch.Tensor) -> np.ndarray:
    """`w_0 + sum_k a_k z_k` in fp64, by plain code."""
    whole = flatten(START).double().numpy()
    for index, number in enumerate(numbers.tolist()):
        whole = whole + number * direction(index)
    return whole


def some_numbers(seed: int, share: float = 1.0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    kept = torch.rand(COUNT, generator=source) < share
    return 0.1 * torch.randn(COUNT, generator=source) * kept


def found(steps: int, seed: int = 3) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {
        "index": torch.randint(0, COUNT, (steps,), generator=source),
        "coefficient": torch.randn(steps, generator=source),
    }


@pytest.mark.parametrize("steps", [1, 5, 26, 39, 40, 200])
def test_the_shorter_message_is_sent_and_predicted(steps: int) -> None:
    codec, sent = CoefficientCodec(DIRECTIONS, steps), found(steps)
    payload = codec.encode(sent, plan())
    assert 8 * len(payload) == codec.payload_bits(SHAPES, plan())
    whole = frame_bytes({"update": ("F32", [COUNT])})
    pairs = frame_bytes({"update": ("F32", [steps]), "index": ("I16", [steps])})
    assert len(payload) == min(whole, pairs)
    assert whole - 4 * COUNT < 100, "a frame's header"
    expected = np.zeros(COUNT)
    for index, number in zip(sent["index"].tolist(), sent["coefficient"].tolist(), strict=True):
        expected[index] += number
    numbers = codec.coefficients(payload, SHAPES, plan())
    assert np.allclose(numbers.numpy(), expected, rtol=1e-6, atol=1e-7)
    decoded = flatten(codec.decode(payload, SHAPES, plan())).double().numpy()
    assert np.allclose(decoded, spoken(numbers) - spoken(torch.zeros(COUNT)), atol=1e-5)


def test_more_candidates_than_two_bytes_number() -> None:
    codec = CoefficientCodec(Directions(7, 40_000), 3)
    sent = {"index": torch.tensor([39_999, 0, 39_999]), "coefficient": torch.ones(3)}
    payload = codec.encode(sent, plan())
    assert 8 * len(payload) == codec.payload_bits(SHAPES, plan())
    numbers = codec.coefficients(payload, SHAPES, plan())
    assert (float(numbers[0]), float(numbers[-1]), float(numbers.sum())) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    "frame",
    [
        {"update": torch.zeros(COUNT + 1)},
        {"update": torch.zeros(COUNT, dtype=torch.float64)},
        {"update": torch.zeros(2), "index": torch.tensor([1, COUNT], dtype=torch.int16)},
        {"update": torch.zeros(2), "index": torch.tensor([-1, 0], dtype=torch.int16)},
        {"update": torch.zeros(2), "index": torch.tensor([1], dtype=torch.int16)},
    ],
)
def test_messages_of_other_directions_are_refused(frame: dict[str, torch.Tensor]) -> None:
    with pytest.raises(InputError, match="40 directions"):
        unpacked(COUNT, pack(frame))


def test_the_model_does_not_depend_on_its_way() -> None:
    """Numbers that came and went, in any order, leave no bit behind; and it is the sum."""
    ways = [some_numbers(seed, 0.5) for seed in range(6)]
    wandering = SeededModel(DIRECTIONS, START)
    for numbers in ways:
        arrived = wandering.at(numbers)
        anew = SeededModel(DIRECTIONS, START).at(numbers)
        assert all(torch.equal(arrived[name], anew[name]) for name in START)
        # Half a unit of 2^-40 a term, and fp32's own rounding of numbers below 4.
        error = flatten(arrived).double().numpy() - spoken(numbers)
        assert np.abs(error).max() < 2**-23
    back = wandering.at(torch.zeros(COUNT))
    assert all(torch.equal(back[name], START[name]) for name in START)


def test_what_is_handed_out_may_be_changed() -> None:
    model = SeededModel(DIRECTIONS, START)
    for answer in (model.at(some_numbers(1)), model.at(some_numbers(1))):
        for tensor in answer.values():
            tensor.fill_(0)
    assert flatten(model.at(some_numbers(1))).any()


@pytest.mark.parametrize("number", [1e9, float("nan"), float("inf")])
def test_coefficients_beyond_any_model(number: float) -> None:
    with pytest.raises(DivergedError, match=r"training\.learning_rate"):
        SeededModel(DIRECTIONS, START).at(torch.full((COUNT,), number))


def updates_of(*numbers: torch.Tensor) -> list[Update]:
    """Updates of clients with 1, 2, 3, ... rows."""
    return [
        Update(client, client + 1.0, {}, coefficients=each.double())
        for client, each in enumerate(numbers)
    ]


def test_weighted_sums_are_kept_and_are_the_adapter() -> None:
    aggregator = CoefficientSum(SeededModel(DIRECTIONS, START))
    one, other, third = (some_numbers(seed) for seed in (4, 5, 6))
    adapter, memory = aggregator.aggregate_in(START, updates_of(one, other), ServerContext())
    assert torch.allclose(memory["coefficients"], (one + 2 * other) / 3, atol=1e-7)
    later = ServerContext(1, memory=memory)
    adapter, memory = aggregator.aggregate_in(adapter, updates_of(third), later)
    assert torch.allclose(memory["coefficients"], (one + 2 * other) / 3 + third, atol=1e-7)
    assert np.abs(flatten(adapter).double().numpy() - spoken(memory["coefficients"])).max() < 1e-6
    same, still = aggregator.aggregate_in(adapter, [], ServerContext(2, memory=memory))
    assert torch.equal(still["coefficients"], memory["coefficients"])
    assert all(torch.equal(same[name], adapter[name]) for name in START)


def rounds(count: int, received: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Adapter and memory after so many rounds, each of which moved two directions of its own."""
    aggregator = CoefficientSum(SeededModel(DIRECTIONS, START))
    adapter: Any = dict(START)
    memory: Any = {}
    for index in range(count):
        numbers = torch.zeros(COUNT)
        numbers[2 * index : 2 * index + 2] = torch.tensor([0.5, -0.25]) / (index + 1)
        context = ServerContext(index, received(index), memory)
        adapter, memory = aggregator.aggregate_in(adapter, updates_of(numbers), context)
    return adapter, memory


def test_who_missed_three_rounds_gets_the_model_from_one_message() -> None:
    """Client 1 was there in round 1 alone, client 2 never, client 0 always."""
    adapter, memory = rounds(4, lambda index: (0, 1) if index == 0 else (0,))
    bound = CoefficientDownlink(SeededModel(DIRECTIONS, START)).to_cohort(memory, [0, 1, 2], 4)
    payload = bound.encode(adapter, plan())
    assert 8 * len(payload) == bound.payload_bits(SHAPES, plan())
    assert len(payload) == frame_bytes({"update": ("F32", [8]), "index": ("I16", [8])})
    # Each client begins elsewhere, and ends at the server's bits.
    for held in ({}, {0: 0.5}, {0: 0.5, 1: -0.25, 2: 0.25, 3: -0.125}):
        model = SeededModel(DIRECTIONS, START)
        numbers = torch.zeros(COUNT)
        for index, number in held.items():
            numbers[index] = number
        model.at(numbers)
        made = CoefficientDownlink(model).decode(payload, SHAPES, plan())
        assert all(torch.equal(made[name], adapter[name]) for name in START)
    # What each draws and adds: all since the round whose broadcast it had.
    added = [bound.receiver_flops(SHAPES, plan(c)) / (DRAW_FLOPS + 2) / SIZE for c in range(3)]
    assert added == [2, 8, 8]
    known = CoefficientMemory.read(memory, COUNT)
    assert [known.lacking(client) for client in range(4)] == [2, 8, 8, 8]


def test_all_numbers_travel_once_most_have_changed() -> None:
    adapter, memory = rounds(20, lambda index: (0,))
    bound = CoefficientDownlink(SeededModel(DIRECTIONS, START)).to_cohort(memory, [0], 20)
    payload = bound.encode(adapter, plan())
    assert len(payload) == frame_bytes({"update": ("F32", [COUNT])})
    assert 8 * len(payload) == bound.payload_bits(SHAPES, plan())
    made = CoefficientDownlink(SeededModel(DIRECTIONS, START)).decode(payload, SHAPES, plan())
    assert all(torch.equal(made[name], adapter[name]) for name in START)


def test_before_the_first_round_and_before_any() -> None:
    unbound = CoefficientDownlink(SeededModel(DIRECTIONS, START), usual=6)
    assert unbound.payload_bits(SHAPES, plan()) == 8 * frame_bytes({"update": ("F32", [COUNT])})
    assert unbound.receiver_flops(SHAPES, plan()) == 6 * SIZE * (DRAW_FLOPS + 2)
    assert unbound.to_cohort({}, [0], 3) is unbound
    with pytest.raises(ValueError, match="bind"):
        unbound.encode(START, plan())
    first = unbound.to_cohort({}, [0], 0)
    payload = first.encode(START, plan())
    assert 8 * len(payload) == first.payload_bits(SHAPES, plan())
    assert first.receiver_flops(SHAPES, plan()) == 0
    made = unbound.decode(payload, SHAPES, plan())
    assert all(torch.equal(made[name], START[name]) for name in START)
