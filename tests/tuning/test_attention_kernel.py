"""Short rows attend by plain products while they train; the loss and its gradients stay."""

import pytest
import torch

from airtune.tuning import label_loss
from airtune.tuning.label_loss import training_attention
from airtune.tuning.local import completion_loss
from tests.rounding import assert_same_gradients
from tests.tuning.test_label_loss import adapted, gradients, padded_batch

CPU = torch.device("cpu")


def tiled() -> bool:
    return bool(torch.backends.cuda.flash_sdp_enabled())


@pytest.mark.parametrize(
    ("dtype", "tokens", "expected"),
    [
        (torch.float32, 32, False),
        (torch.float32, 33, True),
        (torch.bfloat16, 128, False),
        (torch.bfloat16, 129, True),
        (torch.float64, 2, True),
    ],
)
def test_short_rows_take_the_plain_kernel(dtype: torch.dtype, tokens: int, expected: bool) -> None:
    with training_attention(CPU, dtype, tokens):
        assert tiled() is expected
    assert tiled()


def test_without_gradients_torch_chooses() -> None:
    with torch.no_grad(), training_attention(CPU, torch.float32, 8):
        assert tiled()


def test_a_gpu_chooses_for_itself() -> None:
    with training_attention(torch.device("cuda"), torch.float32, 8):
        assert tiled()


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("left", [False, True])
def test_both_kernels_give_the_same_loss_and_gradients(
    family: str, left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = adapted(family), padded_batch(4, left)
    model.get_base_model().set_attn_implementation("sdpa")
    plain, _ = completion_loss(model, batch)
    monkeypatch.setattr(label_loss, "PLAIN_UP_TO_TOKENS", {})
    flash, _ = completion_loss(model, batch)
    torch.testing.assert_close(plain, flash, rtol=1e-5, atol=0)
    assert_same_gradients(gradients(model, plain), gradients(model, flash))
