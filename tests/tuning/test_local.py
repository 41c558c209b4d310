"""Local training against a plain loop, and what may not disturb it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from airtune.data.batches import Batch
from airtune.errors import InputError
from airtune.tuning import label_loss
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
from airtune.tuning.local import (
    LocalResult,
    TokenBatch,
    TrainingSettings,
    completion_loss,
    parts_of,
    train_locally,
)
from tests.models import small_model
from tests.rounding import assert_same_sgd_step


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


@pytest.mark.parametrize("limit", [1, 25, 60])
def test_a_large_batch_runs_in_parts_to_the_same_step(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = adapted(), uneven_batch(rows=7, tokens=20)
    start = initial_state(model, seed=5)
    settings = TrainingSettings("sgd", learning_rate=0.3, max_grad_norm=0.5)

    def trained() -> LocalResult:
        return train_locally(model, start, [batch], settings, (0, 0, 0), penalty=size_of_b)

    whole = trained()
    monkeypatch.setitem(label_loss.TOKENS_AT_ONCE, "cpu", limit)
    parts = trained()
    assert parts.losses == pytest.approx(whole.losses, rel=1e-6)
    assert parts.label_tokens == whole.label_tokens
    assert_same_sgd_step(parts.state, whole.state, start, settings.learning_rate)


def size_of_b(factors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A penalty that counts once a step, however many parts the batch has."""
    squares = ((v + 1).square().sum() for k, v in factors.items() if "lora_B" in k)
    return sum(squares, start=torch.zeros(())) * 1e-2


@given(st.integers(1, 9), st.integers(1, 200), st.integers(0, 99))
def test_parts_hold_every_row_once_and_no_column_of_padding(
    rows: int, limit: int, seed: int
) -> None:
    batch = uneven_batch(rows, tokens=17, seed=seed)
    parts = parts_of(batch, limit)
    found = sorted(row for part in parts for row in real_rows(part))
    assert found == sorted(real_rows(batch))
    assert sum(int(part.label_mask.sum()) for part in parts) == batch.label_tokens
    if len(parts) > 1 or batch.token_ids.size > limit:
        assert all(part.attention_mask[:, -1].any() for part in parts)
        assert all(p.token_ids.size <= limit or len(p.token_ids) == 1 for p in parts)
    else:
        assert parts == [batch]


def real_rows(batch: TokenBatch) -> list[tuple[int, ...]]:
    rows = zip(batch.token_ids, batch.attention_mask, strict=True)
    return [tuple(row[real].tolist()) for row, real in rows]


def uneven_batch(rows: int, tokens: int, seed: int = 3) -> Batch:
    """Rows of any length from 2 tokens, right-padded; one fills the width."""
    draws = np.random.default_rng(seed)
    ids = draws.integers(3, 96, size=(rows, tokens))
    length = draws.integers(2, tokens + 1, size=rows)
    length[draws.integers(rows)] = tokens
    real = np.arange(tokens) < length[:, None]
    labels = real & (np.arange(tokens) >= draws.integers(1, length)[:, None])
    return Batch(ids, real, labels)


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
            batch.token_ids[i : i + 1],
            batch.attention_mask[i : i + 1],
            batch.label_mask[i : i + 1],
        )
        for i in range(3)
    ]
    whole, parts = evaluate(model, [batch]), evaluate(model, rows)
    assert whole.label_tokens == parts.label_tokens
    assert whole.loss == pytest.approx(parts.loss, rel=1e-5)
    assert whole.perplexity == pytest.approx(np.exp(whole.loss))


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "phi3", "qwen3_moe"])
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
