"""The fused activation against the formula as transformers computes it."""

import torch

from airtune.tuning.base_model import fuse_gelu
from tests.models import small_model
from tests.rounding import assert_same_gradients


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
        found.append({"logits": logits.detach(), "gradient": gradient})
    for name in ("logits", "gradient"):
        assert_same_gradients({name: found[1][name]}, {name: found[0][name]})


def test_other_activations_stay() -> None:
    model = small_model("llama")
    before = [type(module) for module in model.modules()]
    fuse_gelu(model)
    assert [type(module) for module in model.modules()] == before
