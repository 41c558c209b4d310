"""Exact merges into the base, and the broadcast that carries them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from airtune.federated.checks.contracts import check_codec
from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import factor_pairs
from airtune.tuning.base_change import (
    change_name,
    changes_of,
    factors_of,
    with_no_change,
)
from airtune.tuning.partial import first_ranks, first_ranks_mask
from airtune.update.base_downlink import BaseDownlink, BaseMemory, fresh_factors, stacked_rank
from airtune.update.codec import shapes_of
from airtune.update.means import FactorMean, factor_covariance
from airtune.update.merged_base import MeanAndResidual, Stacking, residual
from airtune.update.server import Aggregator, ServerContext, Update
from tests.update.adapters import random_factors

WIDE = {"x": (2, 60, 50), "y": (3, 40, 70)}
PLAN = ClientPlan(0, 1e6, 0.1, 3)


def updates_of(count: int, matrices: Any = WIDE, scale: float = 0.3) -> list[Update]:
    return [
        Update(client, 1.0 + client, random_factors(20 + client, matrices, scale))
        for client in range(count)
    ]


def whole(state: dict[str, Tensor], pair: Any) -> Tensor:
    """What the state adds to a matrix, without the scale."""
    product = state[pair.lora_b].double() @ state[pair.lora_a].double()
    return state[change_name(pair)].double() + product


def mean_product(start: dict[str, Tensor], updates: list[Update], pair: Any) -> Tensor:
    """The mean of the clients' products, made in full."""
    total = sum(update.weight for update in updates)
    made = torch.zeros(len(start[pair.lora_b]), start[pair.lora_a].shape[1], dtype=torch.float64)
    for update in updates:
        b = start[pair.lora_b].double() + update.change[pair.lora_b].double()
        a = start[pair.lora_a].double() + update.change[pair.lora_a].double()
        made += update.weight / total * (b @ a)
    return made


def fresh() -> dict[str, Tensor]:
    return with_no_change(fresh_factors(shapes_of(random_factors(0, WIDE)), 3, 0))


def test_stacking_is_the_mean_product_and_starts_afresh() -> None:
    start, updates = fresh(), updates_of(4)
    state = Stacking(3).aggregate_in(start, updates, ServerContext())[0]
    for pair in factor_pairs(factors_of(start)):
        wanted = mean_product(start, updates, pair)
        torch.testing.assert_close(whole(state, pair), wanted, rtol=1e-5, atol=1e-7)
        assert not state[pair.lora_b].any()
        assert not torch.equal(state[pair.lora_a], start[pair.lora_a])
    drawn = fresh_factors(shapes_of(factors_of(start)), 3, 1)
    assert all(torch.equal(state[name], drawn[name]) for name in drawn)


def test_stacking_of_clients_of_any_rank() -> None:
    start = fresh()
    shapes = shapes_of(factors_of(start))
    updates = []
    for update, rank in zip(updates_of(3), (1, 2, 3), strict=True):
        kept = first_ranks_mask(shapes, rank)
        change = first_ranks(dict(update.change), rank)
        updates.append(replace(update, change=change, kept=kept))
    aggregator = Stacking(3)
    state, memory = aggregator.aggregate_in(start, updates, ServerContext())
    increment = BaseMemory.read(memory).increments[0]
    assert increment.limits == (1, 2, 3)
    assert len(increment.factors["x.lora_A.weight"]) == 1 + 2 + 2
    assert len(increment.factors["y.lora_A.weight"]) == 1 + 2 + 3
    for pair in factor_pairs(factors_of(start)):
        # Ranks that a client did not train have B = 0.
        wanted = mean_product(start, updates, pair)
        torch.testing.assert_close(whole(state, pair), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("count", [2, 5])
def test_mean_and_residual_are_the_mean_product(count: int) -> None:
    start = with_no_change(random_factors(1, WIDE, 0.5))
    updates = updates_of(count)
    state, _ = MeanAndResidual().aggregate_in(start, updates, ServerContext())
    mean = FactorMean().aggregate(factors_of(start), updates)
    assert all(torch.equal(state[name], mean[name]) for name in mean)
    for pair in factor_pairs(mean):
        wanted = mean_product(start, updates, pair)
        torch.testing.assert_close(whole(state, pair), wanted, rtol=1e-5, atol=1e-6)
    increment = residual(updates, 0)
    assert increment is not None
    assert len(increment.limits) == count - 1
    # An independent norm of what averaging factors leaves out.
    squared = sum(
        float((increment.factors[p.lora_b] @ increment.factors[p.lora_a]).double().square().sum())
        for p in factor_pairs(mean)
    )
    assert squared**0.5 == pytest.approx(factor_covariance(updates), rel=1e-5)


def test_no_residual_of_one_client_equal_clients_or_a_frozen_factor() -> None:
    one = updates_of(1)
    same = [replace(one[0], client=client, weight=client + 1.0) for client in range(3)]
    still = [
        replace(u, change={n: x * (".lora_B." in n) for n, x in u.change.items()})
        for u in updates_of(3)
    ]
    start = with_no_change(random_factors(1, WIDE))
    for updates in (one, same, still):
        state, memory = MeanAndResidual().aggregate_in(start, updates, ServerContext())
        assert BaseMemory.read(memory).increments == ()
        assert not any(change.any() for change in changes_of(state).values())


def rounds(
    aggregator: Aggregator, start: dict[str, Tensor], received: list[tuple[int, ...]]
) -> list[tuple[dict[str, Tensor], Any]]:
    """The state and the memory before each round, and after the last."""
    found: list[tuple[dict[str, Tensor], Any]] = [(start, {})]
    for index, clients in enumerate(received):
        state, memory = found[-1]
        updates = [
            replace(u, change={n: x / (1 + index) for n, x in u.change.items()})
            for u in updates_of(2, scale=0.1)
        ]
        context = ServerContext(index, clients, memory)
        found.append(aggregator.aggregate_in(state, updates, context))
    return found


@pytest.mark.parametrize("dtype", [None, "fp32", "bf16"])
def test_every_client_holds_the_servers_base_to_the_bit(dtype: str | None) -> None:
    """One that never missed a round, one that missed two, and one that was never there."""
    aggregator = Stacking(3) if dtype is None else MeanAndResidual()
    start = fresh() if dtype is None else with_no_change(random_factors(1, WIDE))
    shapes = shapes_of(factors_of(start))
    received = [(0, 1), (0,), (0,), (0, 1), *[(0,)] * 11]
    found = rounds(aggregator, start, received)
    downlink = BaseDownlink(dtype, 3)
    held = {client: (changes_of(start), 0) for client in range(3)}
    kinds = set()
    for index, clients in enumerate([*received, (0, 1, 2)]):
        state, memory = found[index]
        bound = downlink.to_cohort(memory, clients, index)
        payload = bound.encode(state, PLAN)
        assert 8 * len(payload) == bound.payload_bits(shapes, PLAN)
        assert bound.message is not None
        kinds.add(bound.message.whole)
        for client in clients:
            base, first = held[client]
            with FlopCounterMode(display=False) as counter:
                base = downlink.received(payload, base, first, shapes)
            plan = replace(PLAN, client=client)
            assert counter.get_total_flops() == bound.receiver_flops(shapes, plan)
            held[client] = base, index
            for name, change in changes_of(state).items():
                assert torch.equal(base[name], change), (index, client, name)
        decoded = downlink.decode(payload, shapes, PLAN)
        tolerance = 1e-2 if dtype == "bf16" else 0
        for name, factor in factors_of(state).items():
            torch.testing.assert_close(decoded[name], factor, rtol=tolerance, atol=tolerance)
    # In the last round client 2 lacks what the server remembers no more: everything is dense.
    assert kinds == {False, True}


def test_a_matrix_travels_in_the_form_of_fewer_numbers() -> None:
    shapes = shapes_of(random_factors(0, WIDE))
    _, memory = rounds(Stacking(3), fresh(), [(0,)])[-1]
    increment = BaseMemory.read(memory).increments[0]
    for parts in (1, 2, 9, 15):
        wide = replace(increment, limits=(3,) * parts)
        bound = BaseDownlink(None, 3).to_cohort(memory, [0], 1)
        assert bound.message is not None
        bound = replace(bound, message=replace(bound.message, increments=(wide,)))
        numbers = 0
        for pair in factor_pairs(shapes):
            (rank, width), out = shapes[pair.lora_a], shapes[pair.lora_b][0]
            numbers += min(parts * rank * (width + out), width * out)
        frame = bound.payload_bits(shapes, PLAN) / 8
        assert 0 <= frame - 4 * numbers < 300


def test_nothing_of_a_fresh_adapter_travels() -> None:
    downlink = BaseDownlink(None, 3).to_cohort({}, [0, 1], 0)
    assert len(downlink.encode(fresh(), PLAN)) < 120
    decoded = downlink.decode(downlink.encode(fresh(), PLAN), shapes_of(factors_of(fresh())), PLAN)
    assert all(torch.equal(decoded[name], fresh()[name]) for name in decoded)


def test_a_usual_round_is_predicted_without_state() -> None:
    shapes = shapes_of(random_factors(0, WIDE))
    usual = BaseDownlink("fp32", 3, (3,))
    _, memory = rounds(MeanAndResidual(), with_no_change(random_factors(1, WIDE)), [(0,)])[-1]
    bound = usual.to_cohort(memory, [0], 1)
    assert usual.payload_bits(shapes, PLAN) == bound.payload_bits(shapes, PLAN)
    assert usual.to_cohort({}, [0], 4) is usual
    assert usual.receiver_flops(shapes, PLAN) == 2.0 * (2 * 60 * 50 + 3 * 40 * 70)


def test_an_unbound_broadcast_is_refused_and_a_whole_one_is_a_codec() -> None:
    with pytest.raises(ValueError, match="bind"):
        BaseDownlink(None, 3).encode(fresh(), PLAN)
    bound = BaseDownlink("fp32", 3).to_cohort({}, [0], 0)
    check_codec(bound, random_factors(2, WIDE), PLAN)


def test_memory_survives_a_checkpoint() -> None:
    _, memory = rounds(Stacking(3), fresh(), [(0, 1), (0,)])[-1]
    known = BaseMemory.read(memory)
    again = BaseMemory.read(known.tensors())
    assert (again.held, again.remembered_from) == (known.held, known.remembered_from)
    assert [one.limits for one in again.increments] == [one.limits for one in known.increments]
    assert known.held == (1, 0)


def test_ranks_of_parts_are_limited_by_the_adapter() -> None:
    assert stacked_rank((1, 4, 8), 4) == 1 + 4 + 4
