"""The loss at labels only, against all logits of the model's own forward."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from airtune.data.batches import Batch
from airtune.tuning import label_loss
from airtune.tuning.adapter import AdapterSettings, attach, load_state, read_state
from airtune.tuning.base_model import BaseModel
from airtune.tuning.evaluate import evaluate
from airtune.tuning.label_loss import find_body, head_losses
from airtune.tuning.local import completion_loss
from tests.models import CONFIGS, small_model
from tests.rounding import assert_same_gradients


def padded_batch(seed: int, left: bool = False) -> Batch:
    draws = np.random.default_rng(seed)
    real = np.arange(13) < np.array([13, 9, 5])[:, None]
    labels = real & (np.arange(13) >= np.array([6, 3, 0])[:, None])
    if left:
        real, labels = real[:, ::-1].copy(), labels[:, ::-1].copy()
    return Batch(draws.integers(3, 96, size=real.shape), real, labels)


def adapted(family: str, **overrides: Any) -> Any:
    model = attach(
        BaseModel(small_model(family, **overrides), None, "random"), AdapterSettings(rank=2)
    )
    draws = torch.Generator().manual_seed(3)
    state = read_state(model)
    load_state(model, {k: 0.1 * torch.randn(v.shape, generator=draws) for k, v in state.items()})
    return model


def plain_loss(model: Any, batch: Batch) -> tuple[Tensor, int]:
    """Every logit, the whole mask, one term at a time."""
    logits = model(
        input_ids=torch.tensor(batch.token_ids),
        attention_mask=torch.tensor(batch.attention_mask).long(),
    ).logits.double()
    terms = [
        -torch.log_softmax(logits[row, t - 1], -1)[batch.token_ids[row, t]]
        for row, t in np.argwhere(batch.label_mask)
        if t > 0
    ]
    return torch.stack(terms).sum(), len(terms)


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def agrees(model: Any, batch: Batch) -> None:
    loss, count = completion_loss(model, batch)
    expected, terms = plain_loss(model, batch)
    assert count == terms
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    assert_same_gradients(gradients(model, loss), gradients(model, expected))


@pytest.mark.parametrize("left", [False, True], ids=["right padded", "left padded"])
@pytest.mark.parametrize("family", CONFIGS)
def test_agrees_with_all_logits(family: str, left: bool) -> None:
    model = adapted(family)
    assert find_body(model.get_base_model()) is not None
    agrees(model, padded_batch(1, left))


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("opt", {"word_embed_proj_dim": 16}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": False}),
    ],
)
def test_agrees_for_other_shapes(family: str, overrides: dict[str, Any]) -> None:
    agrees(adapted(family, **overrides), padded_batch(2))


def test_phi_head_has_a_bias_that_counts() -> None:
    model = adapted("phi")
    head = model.get_base_model().lm_head
    head.bias.data.normal_(generator=torch.Generator().manual_seed(0))
    agrees(model, padded_batch(3))


def test_unknown_models_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = padded_batch(4)
    model = adapted("llama")
    monkeypatch.setattr(label_loss, "BODIES", {})
    assert find_body(model.get_base_model()) is None
    agrees(model, batch)


def test_a_class_of_the_users_own_runs_whole() -> None:
    from transformers import LlamaForCausalLM as Original

    # The name of one we know, with a soft cap on logits.
    class LlamaForCausalLM(Original):  # type: ignore[misc]
        def forward(self, *arguments: Any, **named: Any) -> Any:
            output = super().forward(*arguments, **named)
            output.logits = 0.1 * torch.tanh(10.0 * output.logits)
            return output

    model = adapted("llama")
    model.get_base_model().__class__ = LlamaForCausalLM
    assert find_body(model.get_base_model()) is None
    agrees(model, padded_batch(5))


def test_a_head_that_is_not_plain_runs_whole() -> None:
    model = adapted("llama")
    causal = model.get_base_model()
    causal.lm_head = torch.nn.Sequential(causal.lm_head, torch.nn.Tanh())
    assert find_body(causal) is None
    agrees(model, padded_batch(6))


def test_rows_are_taken_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.Generator().manual_seed(1)
    states = torch.randn(11, 7, generator=draws, requires_grad=True)
    weight, bias = torch.randn(30, 7, generator=draws), torch.randn(30, generator=draws)
    labels = torch.randint(0, 30, (11,), generator=draws)
    expected = torch.nn.functional.cross_entropy(states @ weight.T + bias, labels, reduction="none")
    upstream = torch.randn(11, generator=draws)
    (wanted,) = torch.autograd.grad(expected, states, upstream)
    monkeypatch.setitem(label_loss._LOGITS_AT_ONCE, "cpu", 90)
    monkeypatch.setitem(label_loss._SOFTMAX_AT_ONCE, "cpu", 60)
    monkeypatch.setattr(label_loss, "_LEAST_ROWS", 2)
    widths: list[int] = []
    linear = torch.nn.functional.linear

    def counting(rows: Tensor, *rest: Any) -> Tensor:
        widths.append(len(rows))
        return linear(rows, *rest)

    monkeypatch.setattr(torch.nn.functional, "linear", counting)
    losses = head_losses(states, labels, weight, bias)
    (found,) = torch.autograd.grad(losses, states, upstream)
    assert widths == [3, 3, 3, 2]
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(found, wanted)


def test_extreme_logits_stay_finite() -> None:
    states = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    losses = head_losses(states, torch.tensor([0, 1]), torch.tensor([[1.0], [-1.0]]), None)
    assert losses.tolist() == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(losses.sum(), states)
    assert gradient.tolist() == [[0.0], [0.0]]


def test_evaluation_takes_the_same_loss() -> None:
    model, batch = adapted("qwen3"), padded_batch(7)
    expected, count = plain_loss(model, batch)
    assert evaluate(model, [batch]).loss == pytest.approx(
        float(expected.detach()) / count, rel=1e-6
    )
