"""What was left out comes back."""

import dataclasses

import pytest
import torch
from torch import Tensor

from airtune.round_plan import ClientPlan
from airtune.update.codec import Codec, shapes_of
from airtune.update.error_feedback import (
    add_lost,
    add_residual,
    residual,
    without_residual,
)
from airtune.update.quantise import Int8Codec
from airtune.update.rank_sparse import RankSparseCodec
from airtune.update.top_k import TopKCodec
from tests.update.adapters import random_factors

PLAN = ClientPlan(client=0, bandwidth_hz=1e6, tx_power_w=0.2, rank=4, sparsity=0.75)


def send(codec: Codec, change: dict[str, Tensor], plan: ClientPlan) -> dict[str, Tensor]:
    if isinstance(codec, RankSparseCodec):
        codec = codec.in_round({name: torch.ones_like(v) for name, v in change.items()})
    payload = codec.encode(change, plan)
    return codec.decode(payload, shapes_of(change), plan)


@pytest.mark.parametrize("codec", [RankSparseCodec(), TopKCodec(), Int8Codec()])
def test_what_was_sent_and_what_is_carried_add_up(codec: Codec) -> None:
    changes = [random_factors(seed) for seed in range(6)]
    carried: dict[str, Tensor] = {"0.exp_avg": torch.ones(3)}
    sent_in_all = {name: torch.zeros_like(tensor) for name, tensor in changes[0].items()}
    for change in changes:
        wanted = add_residual(change, carried)
        sent = send(codec, wanted, PLAN)
        carried = residual(wanted, sent)
        for name, tensor in sent.items():
            sent_in_all[name] += tensor
    for name in sent_in_all:
        total = torch.stack([change[name] for change in changes]).sum(0)
        torch.testing.assert_close(
            sent_in_all[name] + carried[f"residual/{name}"], total, rtol=1e-5, atol=1e-5
        )


def test_a_rank_that_waits_is_sent_at_last() -> None:
    """A constant change: without feedback the weakest rank would never travel."""
    change = {
        "m.lora_A.weight": torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])),
        "m.lora_B.weight": torch.zeros(2, 4),
    }
    plan = dataclasses.replace(PLAN, sparsity=0.75)
    carried: dict[str, Tensor] = {}
    seen = set()
    for _ in range(12):
        wanted = add_residual(change, carried)
        sent = send(RankSparseCodec(), wanted, plan)
        carried = residual(wanted, sent)
        seen |= set(sent["m.lora_A.weight"].ne(0).any(1).nonzero()[:, 0].tolist())
    assert seen == {0, 1, 2, 3}


def test_nothing_carried_is_no_change() -> None:
    change = random_factors(1)
    assert all(add_residual(change, {})[name] is change[name] for name in change)


def test_nothing_arrived_carries_everything() -> None:
    change = random_factors(1)
    nothing = {name: torch.zeros_like(tensor) for name, tensor in change.items()}
    carried = residual(change, nothing)
    again = add_residual(nothing, carried)
    assert all(torch.equal(again[name], change[name]) for name in change)


def test_moments_are_no_residual() -> None:
    change = random_factors(1)
    moments = {"0.exp_avg": torch.ones(3), "0.step": torch.tensor(4.0)}
    carried = {**moments, **residual(change, change)}
    assert without_residual(carried) == moments
    assert without_residual({}) == {}


def test_what_came_too_late_is_carried_over() -> None:
    change = random_factors(1)
    sent = send(TopKCodec(), change, PLAN)
    moments = {"0.exp_avg": torch.ones(3)}
    carried = add_lost({**moments, **residual(change, sent)}, sent)
    nothing = {name: torch.zeros_like(tensor) for name, tensor in change.items()}
    again = add_residual(nothing, carried)
    for name in change:
        torch.testing.assert_close(again[name], change[name])
    assert torch.equal(carried["0.exp_avg"], moments["0.exp_avg"])
