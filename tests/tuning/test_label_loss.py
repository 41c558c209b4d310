"""The loss at labels only, against all logits of the model's own forward."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from airtune.data.batches import Batch
from airtune.tuning import label_loss
from airtune.tuning.adapter import AdapterSettings, attach, load_state, read_state
from airtune.tuning.base_model import BaseModel
from airtune.tuning.evaluate import evaluate
from airtune.tuning.label_loss import LogitForm, find_body, head_losses
from airtune.tuning.local import completion_loss
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import Architecture
from airtune.workload.step import Step
from airtune.workload.transformer import workload
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


@pytest.mark.parametrize("family", CONFIGS)
def test_operations_are_those_charged(family: str) -> None:
    """Logits at labels alone, padding included, in families whose logits are capped or scaled, too;
    of a mixture the experts at work."""
    model, batch = adapted(family), padded_batch(8)
    causal = model.get_base_model()
    architecture = Architecture.from_config(causal.config.to_dict())
    if architecture.structure.experts is not None:
        causal.set_experts_implementation("batched_mm")  # torch's counter knows no grouped products
    with FlopCounterMode(display=False) as counter:
        loss, labels = completion_loss(model, batch)
        loss.backward()
    rows, tokens = batch.token_ids.shape
    step = Step(rows, tokens, label_tokens=labels)
    assert counter.get_total_flops() == workload(architecture, AdapterShape(2), step).flops


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


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("gemma2", {"final_logit_softcapping": None, "attn_logit_softcapping": None}),
        ("gemma2", {"final_logit_softcapping": 30.0}),
        ("gemma3_text", {"final_logit_softcapping": None}),
        ("granite", {"logits_scaling": 8.0}),
        ("granite", {"logits_scaling": 1.0}),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 4}),
        ("qwen3_moe", {"norm_topk_prob": True}),
    ],
)
def test_agrees_for_other_caps_and_multipliers(family: str, overrides: dict[str, Any]) -> None:
    agrees(adapted(family, **overrides), padded_batch(2))


def test_what_becomes_of_logits_is_read_off_the_class() -> None:
    """A key of another family's name changes nothing where the class does not read it."""
    llama = small_model("llama", logits_scaling=4.0, final_logit_softcapping=1.0)
    assert LogitForm.of(llama) == LogitForm()
    assert LogitForm.of(small_model("granite")) == LogitForm(divisor=0.25)
    assert LogitForm.of(small_model("gemma2")) == LogitForm(cap=0.5)
    agrees(adapted("llama", logits_scaling=4.0, final_logit_softcapping=1.0), padded_batch(2))


@pytest.mark.parametrize("form", [LogitForm(), LogitForm(2.5), LogitForm(cap=1.5)])
def test_gradients_of_every_form_by_autograd(
    form: LogitForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = torch.Generator().manual_seed(4)
    states = torch.randn(9, 5, generator=draws, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(20, 5, generator=draws, dtype=torch.float64)
    labels = torch.randint(0, 20, (9,), generator=draws)
    logits = states @ weight.T / form.divisor
    if form.cap is not None:
        logits = form.cap * torch.tanh(logits / form.cap)
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    upstream = torch.randn(9, generator=draws)
    (wanted,) = torch.autograd.grad(expected, states, upstream.double())
    monkeypatch.setattr(label_loss, "_LEAST_ROWS", 4)
    monkeypatch.setitem(label_loss._LOGITS_AT_ONCE, "cpu", 80)
    losses = head_losses(states, labels, weight, None, form)
    (found,) = torch.autograd.grad(losses, states, upstream)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_capped_logits_that_are_extreme_stay_finite() -> None:
    states = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight, form = torch.tensor([[1.0], [-1.0]]), LogitForm(cap=30.0)
    losses = head_losses(states, torch.tensor([0, 1]), weight, None, form)
    (gradient,) = torch.autograd.grad(losses.sum(), states)
    assert losses.tolist() == [0.0, 0.0]
    assert gradient.tolist() == [[0.0], [0.0]]


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
