"""Checkpointed blocks, micro-batches and weight decay: the same step with less memory."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from airtune.data.batches import Batch
from airtune.errors import InputError
from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import (
    AdapterSettings,
    AdapterState,
    attach,
    initial_state,
    read_state,
    train_every_parameter,
)
from airtune.tuning.base_model import BaseModel
from airtune.tuning.blocks import checkpointed_blocks, find_blocks
from airtune.tuning.local import (
    LocalResult,
    TokenBatch,
    TrainingSettings,
    completion_loss,
    make_optimizer,
    micro_batches,
    train_locally,
)
from airtune.tuning.partial import FirstRanksTuner, FrozenATuner
from airtune.tuning.pruning.importance import WeightImportance
from airtune.tuning.pruning.tuner import PrunedTuner, Slicer
from airtune.tuning.stack import train_stacked
from airtune.tuning.tuner import FullTuner, Tuner, TuningContext
from tests.models import CONFIGS, small_model
from tests.rounding import assert_same_sgd_step
from tests.tuning.test_batched import case, one_by_one, start_of
from tests.tuning.test_local import make_batch

SGD = TrainingSettings("sgd", learning_rate=1.0, max_grad_norm=0.0)
"""A state moves by minus its gradient."""
AGAIN = replace(SGD, checkpointing=True)


def adapted(family: str, **settings: Any) -> Any:
    return attach(
        BaseModel(small_model(family), None, "random"), AdapterSettings(rank=3, **settings)
    )


def uneven(rows: int, tokens: int = 14, seed: int = 3) -> Batch:
    """Rows of other lengths, with other numbers of labels."""
    draws = np.random.default_rng(seed)
    length = draws.integers(6, tokens + 1, size=rows)
    length[0] = tokens
    real = np.arange(tokens) < length[:, None]
    labels = real & (np.arange(tokens) >= draws.integers(1, 5, size=(rows, 1)))
    return Batch(draws.integers(3, 96, size=(rows, tokens)), real, labels)


def trained(
    model: Any, start: AdapterState, batch: TokenBatch, settings: TrainingSettings
) -> LocalResult:
    return train_locally(model, start, [batch], settings, (0, 0, 0))


def assert_same_gradients(found: LocalResult, expected: LocalResult, start: AdapterState) -> None:
    """Relative to the largest of each tensor, to 1e-6."""
    assert found.losses == pytest.approx(expected.losses, rel=1e-6)
    for name, before in start.items():
        gradient = before - expected.state[name]
        error = (found.state[name] - expected.state[name]).abs().max()
        assert error <= 1e-6 * gradient.abs().max() + 1e-9, name


@pytest.mark.parametrize("tokens", [11, 40])
@pytest.mark.parametrize("family", CONFIGS)
def test_gradients_of_checkpointed_blocks(family: str, tokens: int) -> None:
    """Short rows and long ones, which other attention kernels train."""
    model, batch = adapted(family), make_batch(1, tokens=tokens)
    start = start_of(model, 1)
    plain = trained(model, start, batch, SGD)
    assert_same_gradients(trained(model, start, batch, AGAIN), plain, start)
    # Nothing is left behind: the next client trains as before.
    again = trained(model, start, batch, SGD)
    assert all(torch.equal(again.state[name], plain.state[name]) for name in start)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_dropout_is_drawn_once(attention: str) -> None:
    base = BaseModel(small_model("llama"), None, "random")
    base.model.config._attn_implementation = attention
    model = attach(base, AdapterSettings(rank=3, dropout=0.3))
    start, batch = start_of(model, 1), make_batch(2, tokens=40)
    plain = trained(model, start, batch, SGD)
    assert_same_gradients(trained(model, start, batch, AGAIN), plain, start)
    without = trained(adapted("llama"), start, batch, SGD)
    assert plain.losses != pytest.approx(without.losses, rel=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_parameter(family: str) -> None:
    model = train_every_parameter(BaseModel(small_model(family), None, "random"))
    start, batch = initial_state(model, 0), make_batch(4, tokens=40)
    plain = trained(model, start, batch, SGD)
    assert_same_gradients(trained(model, start, batch, AGAIN), plain, start)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_a_stack(family: str) -> None:
    model = adapted(family)
    starts, batches, carried = case(model)
    expected = train_stacked(model, starts, batches, SGD, carried)
    found = train_stacked(model, starts, batches, AGAIN, carried)
    for one, other, start in zip(found, expected, starts, strict=True):
        assert_same_gradients(one, other, start)


def _pruned(model: Any) -> Tuner:
    return PrunedTuner(Slicer(model, WeightImportance()))


TUNERS: dict[str, tuple[Callable[[Any], Tuner], ClientPlan]] = {
    "pruned": (_pruned, ClientPlan(0, 1e6, 0.2, 3, pruning_rate=0.5)),
    "frozen A": (lambda model: FrozenATuner(), ClientPlan(0, 1e6, 0.2, 3)),
    "first ranks": (lambda model: FirstRanksTuner(), ClientPlan(0, 1e6, 0.2, 2)),
    "whole": (lambda model: FullTuner(), ClientPlan(0, 1e6, 0.2, 3)),
}


@pytest.mark.parametrize("option", [{"checkpointing": True}, {"micro_batches": 3}], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("name", TUNERS)
def test_every_tuner(name: str, family: str, option: dict[str, Any]) -> None:
    model = adapted(family)
    make, plan = TUNERS[name]
    start = start_of(model, 2)

    def tuned(settings: TrainingSettings) -> LocalResult:
        context = TuningContext(model, [uneven(7)], settings, 0, 0, {})
        return make(model).tune(start, plan, context)

    found, expected = tuned(replace(SGD, **option)), tuned(SGD)
    assert found.losses == pytest.approx(expected.losses, rel=1e-6)
    assert_same_sgd_step(found.state, expected.state, start, SGD.learning_rate)


def test_blocks_run_twice_and_nothing_else() -> None:
    """As many operations more as one forward pass of the blocks has."""
    model, batch = adapted("llama"), make_batch(1, tokens=40)
    start = start_of(model, 1)
    counts = []
    for settings in (SGD, AGAIN):
        with FlopCounterMode(display=False) as counter:
            trained(model, start, batch, settings)
        counts.append(counter.get_total_flops())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        completion_loss(model, batch)
    inside = sum(
        sum(found.values())
        for name, found in counter.get_flop_counts().items()
        if name.rpartition(".")[0].endswith("layers")
    )
    assert inside > 0
    assert counts[1] - counts[0] == inside


def test_a_model_whose_blocks_are_not_found() -> None:
    model = adapted("llama")
    model.get_base_model().config.num_hidden_layers = 7
    with (
        pytest.raises(InputError, match="7 blocks in one list, to be checkpointed"),
        checkpointed_blocks(model, True),
    ):
        pass
    assert find_blocks(adapted("gpt2").get_base_model(), "")[0] == "transformer.h"


@pytest.mark.parametrize("number", [1, 2, 3, 5, 7, 12])
def test_micro_batches_are_the_batch(number: int) -> None:
    batch = uneven(7)
    parts = micro_batches(batch, number)
    assert len(parts) == min(number, 7)
    assert max(len(part.token_ids) for part in parts) == -(-7 // min(number, 7))
    assert np.array_equal(np.concatenate([part.token_ids for part in parts]), batch.token_ids)
    assert np.array_equal(np.concatenate([part.label_mask for part in parts]), batch.label_mask)
    model = adapted("gpt2")
    start = start_of(model, 1)
    whole = trained(model, start, batch, SGD)
    found = trained(model, start, batch, replace(SGD, micro_batches=number))
    assert found.label_tokens == whole.label_tokens
    assert found.losses == pytest.approx(whole.losses, rel=1e-6)
    assert_same_sgd_step(found.state, whole.state, start, 1.0)


def test_a_mean_of_means_would_be_another_step() -> None:
    """The weights of the parts matter on these rows."""
    model, batch = adapted("gpt2"), uneven(6)
    start = start_of(model, 1)
    whole = trained(model, start, batch, SGD)
    losses = [trained(model, start, part, SGD).losses[0] for part in micro_batches(batch, 3)]
    assert sum(losses) / 3 != pytest.approx(whole.losses[0], rel=1e-4)


@pytest.mark.parametrize("number", [2, 3, 9])
def test_micro_batches_of_a_stack(number: int) -> None:
    model = adapted("llama")
    starts, _, carried = case(model, clients=4)
    batches = [[uneven(rows, seed=rows)] for rows in (5, 2, 7, 1)]
    settings = TrainingSettings("sgd", learning_rate=1.0, max_grad_norm=0.5)
    expected = one_by_one(model, starts, batches, settings, carried)
    settings = replace(settings, micro_batches=number)
    for found in (
        train_stacked(model, starts, batches, settings, carried),
        one_by_one(model, starts, batches, settings, carried),
    ):
        for one, other, start in zip(found, expected, starts, strict=True):
            assert one.label_tokens == other.label_tokens
            assert one.losses == pytest.approx(other.losses, rel=1e-5)
            assert_same_sgd_step(one.state, other.state, start, 1.0)


def by_hand(start: Tensor, gradient: Tensor, optimizer: str, rate: float, decay: float) -> Tensor:
    """The first step: AdamW's is `x - rate decay x - rate g / (|g| + eps)`."""
    if optimizer == "sgd":
        return start - rate * (gradient + decay * start)
    return start - rate * decay * start - rate * gradient / (gradient.abs() + 1e-8)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stacked", [False, True])
def test_weight_decay_by_hand(optimizer: str, stacked: bool) -> None:
    model, batch = adapted("gpt2"), make_batch(2)
    start = start_of(model, 1)
    plain = trained(model, start, batch, SGD)
    settings = TrainingSettings(optimizer, learning_rate=0.1, max_grad_norm=0.0, weight_decay=0.3)
    if stacked:
        [found] = train_stacked(model, [start], [[batch]], settings, [{}])
    else:
        found = trained(model, start, batch, settings)
    for name, before in start.items():
        gradient = before - plain.state[name]
        expected = by_hand(before, gradient, optimizer, 0.1, 0.3)
        # Where a gradient is all rounding, AdamW's first step has either sign.
        sure = gradient.abs() > 1e-4
        torch.testing.assert_close(found.state[name][sure], expected[sure], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_no_decay_is_the_step_of_before(optimizer: str) -> None:
    value = torch.arange(6.0, requires_grad=True)
    value.grad = torch.full((6,), 0.5)
    made = make_optimizer([value], TrainingSettings(optimizer, learning_rate=0.1))
    assert made.param_groups[0]["weight_decay"] == 0.0
    made.step()
    assert torch.equal(value.detach()[0] * 0, torch.zeros(()))


def test_the_state_keeps_its_names() -> None:
    model = adapted("llama")
    with checkpointed_blocks(model, True):
        assert list(read_state(model)) == list(start_of(model, 1))
