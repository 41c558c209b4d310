"""The fused activation against the formula as transformers computes it."""

import torch

from airtune.tuning.fused_gelu import fuse_gelu
from tests.models import small_model


def test_same_logits_and_gradients() -> None:
    plain, fused = small_model("gpt2"), small_model("gpt2")
    fuse_gelu(fused)
    assert any(isinstance(module, torch.nn.GELU) for module in fused.modules())
    found = []
    for model in (plain, fused):
        states = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
        states.mul_(3.0).requires_grad_()
        logits = model(inputs_embeds=states, use_cache=False).logits
        (gradient,) = torch.autograd.grad(logits.square().sum(), states)
        found.append((logits.detach(), gradient))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


def test_other_activations_stay() -> None:
    model = small_model("llama")
    before = [type(module) for module in model.modules()]
    fuse_gelu(model)
    assert [type(module) for module in model.modules()] == before
