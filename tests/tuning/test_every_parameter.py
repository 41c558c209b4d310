"""Full tuning of a model: what is trained, against plain torch, and the folder that comes out."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from airtune.errors import AirtuneError
from airtune.tuning.adapter import (
    initial_state,
    load_state,
    read_state,
    save_model,
    train_every_parameter,
    trained_parameters,
)
from airtune.tuning.base_model import BaseModel, load_base, share_weights
from airtune.tuning.evaluate import evaluate
from airtune.tuning.label_loss import find_body
from airtune.tuning.local import TrainingSettings, completion_loss, train_locally
from airtune.tuning.stacked_linear import refuses_stacking
from airtune.update.codec import shapes_of
from tests.models import CONFIGS, small_model
from tests.rounding import assert_adam_step, assert_same_moments, by_name
from tests.tuning.test_label_loss import plain_loss
from tests.tuning.test_local import make_batch

SETTINGS = TrainingSettings("adamw", 0.01, max_grad_norm=0.5, keep_optimizer=True)


def full(family: str) -> Any:
    return train_every_parameter(BaseModel(small_model(family), None, "random"))


@pytest.mark.parametrize("family", CONFIGS)
def test_the_state_is_every_parameter_once_as_loaded(family: str) -> None:
    model = full(family)
    start = initial_state(model, seed=3)
    tied = model.config.tie_word_embeddings
    assert any("lm_head.weight" in name for name in start) != tied
    for name, weight in small_model(family).named_parameters():
        assert torch.equal(start.pop(name), weight)
    assert start == {}
    assert refuses_stacking(model).startswith("every parameter is trained")


@pytest.mark.parametrize(
    "family", ["gpt2", "llama", "opt", "phi", "gemma2", "granite", "olmo2", "qwen3_moe"]
)
def test_training_is_that_of_plain_torch(family: str) -> None:
    """One step from moments that are there: the moments, and where they lead."""
    model, twin = full(family), deepcopy(full(family))
    first = train_locally(model, initial_state(model, 0), [make_batch(0)], SETTINGS, (0, 0, 0))
    result = train_locally(model, first.state, [make_batch(1)], SETTINGS, (0, 1, 0), first.carried)
    names = list(first.state)
    before, after = by_name(first.carried, names), by_name(result.carried, names)
    load_state(twin, first.state)
    loss, terms = plain_loss(twin, make_batch(1))
    assert result.losses == pytest.approx([float(loss.detach()) / terms], abs=1e-5)
    (loss / terms).float().backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
    gradients = {n: p.grad for n, p in twin.named_parameters() if p.grad is not None}
    expected = {
        f"{index}.{entry}": value
        for index, name in enumerate(names)
        for entry, value in (
            ("exp_avg", 0.9 * before[name]["exp_avg"] + 0.1 * gradients[name]),
            ("exp_avg_sq", 0.999 * before[name]["exp_avg_sq"] + 0.001 * gradients[name].square()),
            ("step", torch.tensor(2.0)),
        )
    }
    assert_same_moments(result.carried, expected)
    assert_adam_step(first.state, result.state, after, 0.01)


def test_steps_follow_one_another() -> None:
    """Three steps are three times one step, to the bit."""
    model, batches = full("llama"), [make_batch(seed) for seed in range(3)]
    start = initial_state(model, 0)
    whole = train_locally(model, start, batches, SETTINGS, (0, 0, 0))
    state, carried = start, dict[str, torch.Tensor]()
    for batch in batches:
        result = train_locally(model, state, [batch], SETTINGS, (0, 0, 0), carried)
        state, carried = result.state, result.carried
    assert all(torch.equal(state[name], value) for name, value in whole.state.items())
    assert all(torch.equal(carried[key], value) for key, value in whole.carried.items())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_evaluation_needs_no_logits_of_prompts(family: str) -> None:
    """Where no gradient is asked for the LM head runs at labels only, to the same loss."""
    model, batch = full(family), make_batch(5)
    with torch.inference_mode():
        assert find_body(model) is not None
    assert find_body(model) is None
    loss, terms = completion_loss(model, batch)
    assert evaluate(model, [batch]).loss == pytest.approx(float(loss.detach()) / terms, abs=1e-5)


def test_copies_share_nothing() -> None:
    """A worker writes into weights of its own: nothing is frozen, so nothing is put in common."""
    ours, theirs = full("llama"), full("llama")
    before = read_state(ours)
    assert share_weights(ours) is None
    train_locally(theirs, before, [make_batch(1)], SETTINGS, (0, 0, 0))
    assert all(torch.equal(weight, before[name]) for name, weight in read_state(ours).items())
    assert not torch.equal(next(iter(read_state(theirs).values())), next(iter(before.values())))


@pytest.mark.parametrize("family", ["builtin", "gpt2", "opt", "qwen3", "phi3", "qwen3_moe"])
def test_the_folder_is_an_ordinary_model(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    loaded = load_base("builtin")
    base = loaded if family == "builtin" else BaseModel(small_model(family), loaded.tokenizer, "")
    model = train_every_parameter(base)
    draws = torch.Generator().manual_seed(0)
    state = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=draws)
        for name, tensor in read_state(model).items()
    }
    save_model(base, state, tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert shapes_of(trained_parameters(again)) == shapes_of(state)
    assert all(torch.equal(weight, state[name]) for name, weight in again.named_parameters())
    assert load_base(str(tmp_path / "model")).tokenizer("ab") == loaded.tokenizer("ab")


def test_a_state_of_another_model_is_refused() -> None:
    state = read_state(full("llama"))
    with pytest.raises(AirtuneError, match="made of the same tensors"):
        load_state(full("gpt2"), state)
