"""Local training against a plain loop, and what may not disturb it."""

from typing import Any

import numpy as np
import pytest
import torch

from airtune.data.batches import Batch
from airtune.errors import InputError
from airtune.tuning.adapter import (
    AdapterSettings,
    attach,
    initial_state,
    load_state,
    read_adapter,
    read_state,
    save_adapter,
)
from airtune.tuning.base_model import BaseModel, load_base
from airtune.tuning.evaluate import evaluate
from airtune.tuning.local import TrainingSettings, completion_loss, train_locally
from tests.models import small_model


def make_batch(seed: int, rows: int = 3, tokens: int = 11) -> Batch:
    draws = np.random.default_rng(seed)
    ids = draws.integers(3, 96, size=(rows, tokens))
    real = np.ones_like(ids, dtype=np.bool_)
    real[0, -3:] = False
    labels = real.copy()
    labels[:, :4] = False
    return Batch(ids, real, labels)


def adapted(family: str = "llama", **settings: Any) -> Any:
    base = BaseModel(small_model(family), None, "random")
    return attach(base, AdapterSettings(rank=2, **settings))


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_loss_is_the_mean_over_completion_tokens(family: str) -> None:
    model, batch = adapted(family), make_batch(1)
    total, count = completion_loss(model, batch)
    logits = model(
        input_ids=torch.tensor(batch.token_ids),
        attention_mask=torch.tensor(batch.attention_mask).long(),
    ).logits
    terms = [
        -torch.log_softmax(logits[row, t - 1], -1)[batch.token_ids[row, t]]
        for row in range(3)
        for t in range(1, 11)
        if batch.label_mask[row, t]
    ]
    assert count == len(terms)
    torch.testing.assert_close(total, torch.stack(terms).sum(), rtol=1e-5, atol=1e-5)


def test_sgd_step_by_hand() -> None:
    model, batch = adapted(), make_batch(2)
    start = initial_state(model, seed=5)
    settings = TrainingSettings("sgd", learning_rate=0.1, local_steps=1, max_grad_norm=0.0)
    result = train_locally(model, start, [batch], settings, (0, 0, 0))
    load_state(model, start)
    model.zero_grad()
    total, count = completion_loss(model, batch)
    (total / count).backward()
    names = list(start)
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    for name, grad in zip(names, grads, strict=True):
        assert grad is not None
        torch.testing.assert_close(result.state[name], start[name] - 0.1 * grad)
    assert result.losses == pytest.approx([float(total.detach()) / count])


def test_start_is_a_zero_change_and_independent_of_the_global_generator() -> None:
    model = adapted()
    torch.manual_seed(1)
    one = initial_state(model, seed=9)
    torch.manual_seed(2)
    two = initial_state(model, seed=9)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[k], v) for k, v in initial_state(model, seed=10).items())
    assert all(not value.any() for name, value in one.items() if "lora_B" in name)
    batch = make_batch(3)
    load_state(model, one)
    with model.disable_adapter():
        base_loss = completion_loss(model, batch)[0]
    torch.testing.assert_close(completion_loss(model, batch)[0], base_loss)


def test_dropout_draws_from_its_own_stream() -> None:
    model = adapted(dropout=0.3)
    start = initial_state(model, seed=1)
    settings = TrainingSettings(local_steps=2)
    batches = [make_batch(4), make_batch(5)]
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = train_locally(model, start, batches, settings, (0, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(77)
    assert train_locally(model, start, batches, settings, (0, 1, 2)).losses == one.losses
    assert train_locally(model, start, batches, settings, (0, 1, 3)).losses != one.losses


def test_kept_optimizer_continues_where_it_was() -> None:
    model = adapted()
    start = initial_state(model, seed=1)
    settings = TrainingSettings(keep_optimizer=True, max_grad_norm=0.0)
    batches = [make_batch(seed) for seed in (6, 7, 8, 9)]
    whole = train_locally(model, start, batches, settings, (0, 0, 0))
    half = train_locally(model, start, batches[:2], settings, (0, 0, 0))
    rest = train_locally(model, half.state, batches[2:], settings, (0, 1, 0), half.carried)
    for name in start:
        torch.testing.assert_close(rest.state[name], whole.state[name], rtol=0, atol=0)


def test_evaluation_does_not_depend_on_batching() -> None:
    model = adapted()
    load_state(model, initial_state(model, seed=1))
    batch = make_batch(10)
    rows = [
        Batch(
            *(part[i : i + 1] for part in (batch.token_ids, batch.attention_mask, batch.label_mask))
        )
        for i in range(3)
    ]
    whole, parts = evaluate(model, [batch]), evaluate(model, rows)
    assert whole.label_tokens == parts.label_tokens
    assert whole.loss == pytest.approx(parts.loss, rel=1e-5)
    assert whole.perplexity == pytest.approx(np.exp(whole.loss))


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_saved_adapter_loads_in_plain_peft(family: str, tmp_path: Any) -> None:
    from peft import PeftModel

    model, batch = adapted(family), make_batch(11)
    settings = TrainingSettings(learning_rate=0.05)
    state = train_locally(
        model, initial_state(model, seed=1), [batch] * 3, settings, (0, 0, 0)
    ).state
    loss = float(completion_loss(model, batch)[0].detach())
    save_adapter(model, state, tmp_path)
    plain = PeftModel.from_pretrained(small_model(family), tmp_path).eval()
    assert float(completion_loss(plain, batch)[0].detach()) == pytest.approx(loss, abs=1e-5)
    again = read_adapter(tmp_path)
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_state_of_another_shape_is_refused() -> None:
    model = adapted()
    state = read_state(model)
    name = next(iter(state))
    with pytest.raises(InputError, match="use the same rank and target modules"):
        load_state(model, {**state, name: torch.zeros(3, 3)})
    with pytest.raises(InputError, match="made of the same tensors"):
        load_state(model, {name: state[name]})


def test_unknown_model_and_targets_are_refused(tmp_path: Any) -> None:
    with pytest.raises(InputError, match=r"^model is nowhere/at-all, but it must be 'builtin'"):
        load_base("nowhere/at-all")
    with pytest.raises(InputError, match="dtype is fp8"):
        load_base("builtin", "fp8")
    with pytest.raises(InputError, match=r"adapter\.target_modules"):
        adapted(target_modules=("no_such_layer",))
