"""Cross-entropy at the tokens that a model must write, and no logits anywhere else.

The LM head is run on the positions whose next token is a label: prompts and padding never reach
it. It is run a few rows at a time and its gradient taken on the spot, so that the logits of a
vocabulary of 150,000 words never exist at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BODIES = {
    "GPT2LMHeadModel": "transformer",
    "OPTForCausalLM": "model.decoder",
    "LlamaForCausalLM": "model",
    "MistralForCausalLM": "model",
    "Qwen2ForCausalLM": "model",
    "Qwen3ForCausalLM": "model",
    "GemmaForCausalLM": "model",
    "PhiForCausalLM": "model",
    "Gemma2ForCausalLM": "model",
    "Gemma3ForCausalLM": "model",
    "Phi3ForCausalLM": "model",
    "GraniteForCausalLM": "model",
    "SmolLM3ForCausalLM": "model",
    "Olmo2ForCausalLM": "model",
    "Qwen3MoeForCausalLM": "model",
}
"""transformers classes of which we have read that `logits = lm_head(body(tokens))`, but for what
`LogitForm` does, and where the body is. Everything else runs its whole forward."""
TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 2**15}
"""Tokens of one forward pass, by device: enough to hide the calls, few enough for the processor's
cache. The GPU's is an estimate: enough rows to fill one, activations of some GB."""
_LOGITS_AT_ONCE = {"cpu": 2**20, "cuda": 2**27}
_LEAST_ROWS = 256
"""Below it a product in bf16 spends its time on packing the head's matrix."""
_SOFTMAX_AT_ONCE = {"cpu": 2**17, "cuda": 2**27}
"""Logits whose softmax is taken together: on a processor, what stays in a core's own cache."""


@dataclass(frozen=True)
class LogitForm:
    """What becomes of `z = W h + b`: `z / divisor` (Granite), then `c tanh(z / c)` (Gemma 2)."""

    divisor: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, causal: Any) -> "LogitForm":
        """That of a class in `BODIES`, from its config."""
        name, config = type(causal).__name__, causal.config
        if name == "GraniteForCausalLM":
            return cls(divisor=float(config.logits_scaling))
        if name in ("Gemma2ForCausalLM", "Gemma3ForCausalLM"):
            return cls(cap=config.final_logit_softcapping)
        return cls()

    def apply(self, logits: Tensor) -> Tensor | None:
        """In place; the derivative of each logit by its `z / divisor`, None where all are 1."""
        if self.divisor != 1.0:
            logits.div_(self.divisor)
        if self.cap is None:
            return None
        share = logits.div_(self.cap).tanh_()
        slopes = 1.0 - share.square()
        logits.mul_(self.cap)
        return slopes


PLAIN = LogitForm()


def label_losses(
    model: Any, token_ids: Tensor, attention_mask: Tensor, label_mask: Tensor
) -> Tensor:
    """`-log p(token t | tokens before t)` at every label, in the order of rows [label], fp32 [nat].

    All arguments have the axes [row, token]; a label in column 0 has no tokens before it and is
    left out. A model whose class is not in `BODIES`, or whose LM head is no plain linear layer or
    needs a gradient (full tuning), computes all its logits itself: slower, and the same numbers.
    """
    wanted = label_mask[:, 1:]
    labels = token_ids[:, 1:][wanted]
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    body, head = find_body(causal), getattr(causal, "lm_head", None)
    if body is None or head is None:
        output = model(input_ids=token_ids, attention_mask=attention_mask, use_cache=False)
        logits = output.logits[:, :-1][wanted].float()
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    # Behind the last real token nothing is seen: causal attention needs no mask against padding
    # on the right, and runs faster without.
    mask = None if is_right_padded(attention_mask) else attention_mask
    weight = head.weight
    with training_attention(weight.device, weight.dtype, token_ids.shape[1]):
        hidden = body(input_ids=token_ids, attention_mask=mask, use_cache=False).last_hidden_state
    return head_losses(hidden[:, :-1][wanted], labels, weight, head.bias, LogitForm.of(causal))


def find_body(causal: Any) -> Any:
    """What runs before the LM head, or None where the whole forward must be run."""
    kind = type(causal)
    head = getattr(causal, "lm_head", None)
    known = kind.__module__.startswith("transformers.models.") and kind.__name__ in BODIES
    if not known or type(head) is not nn.Linear:
        return None
    learns = torch.is_grad_enabled() and any(p.requires_grad for p in head.parameters())
    return None if learns else causal.get_submodule(BODIES[kind.__name__])


def is_right_padded(attention_mask: Tensor) -> bool:
    """Whether no real token follows padding."""
    return not bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any())


def head_losses(
    states: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, form: LogitForm = PLAIN
) -> Tensor:
    """`logsumexp(z) - z_label`, `z` the logits of this form in fp32, for states h [label, hidden]
    -> [label].

    `weight` (vocabulary, hidden) and `bias` get no gradient.
    """
    losses: Tensor = _HeadLosses.apply(states, labels, weight, bias, form)  # type: ignore[no-untyped-call]
    return losses


class _HeadLosses(torch.autograd.Function):
    """The gradient for h, `W^T (slope (softmax - onehot))`, is made while the logits are there.

    `slope` is the derivative of a logit by its entry of `W h + b`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        labels: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        form: LogitForm,
    ) -> Tensor:
        rows = max(_LEAST_ROWS, _LOGITS_AT_ONCE[weight.device.type] // weight.shape[0])
        losses = torch.empty(len(states), dtype=torch.float32, device=states.device)
        gradient = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        for start in range(0, len(states), rows):
            part = slice(start, start + rows)
            losses[part], errors = _part(states[part], labels[part], weight, bias, form)
            if gradient is not None:
                torch.mm(errors, weight, out=gradient[part])
        if gradient is not None and form.divisor != 1.0:
            gradient.div_(form.divisor)
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None].to(gradient.dtype), None, None, None, None


def _part(
    states: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, form: LogitForm
) -> tuple[Tensor, Tensor]:
    """Losses [label], and their derivatives by `(W h + b) / divisor` [label, word]."""
    logits = torch.nn.functional.linear(states, weight, bias)
    slopes = form.apply(logits)
    losses = _to_errors(logits, labels)
    return losses, logits if slopes is None else logits.mul_(slopes)


def _to_errors(logits: Tensor, labels: Tensor) -> Tensor:
    """Turn logits [label, word] into `softmax(z) - onehot` in place; losses [label], all in fp32.

    A few rows at a time, so that the six passes over them run in the cache.
    """
    rows = max(1, _SOFTMAX_AT_ONCE[logits.device.type] // logits.shape[1])
    losses = []
    for part, own in zip(torch.split(logits, rows), torch.split(labels, rows), strict=True):
        errors, index = part.float(), own[:, None]
        largest = errors.amax(dim=1, keepdim=True)
        picked = errors.gather(1, index) - largest
        total = errors.sub_(largest).exp_().sum(dim=1, keepdim=True)
        losses.append((total.log() - picked)[:, 0])
        errors.div_(total).scatter_add_(1, index, torch.full_like(picked, -1.0))
        if errors.dtype != part.dtype:
            part.copy_(errors)
    return torch.cat(losses)


PLAIN_UP_TO_TOKENS = {torch.float32: 32, torch.bfloat16: 128, torch.float16: 128}
"""Up to these lengths products and a softmax over all scores (in fp32) replace the tiled kernel,
whose backward pays for its tiles: in bf16 they are 1.7 to 3.6 times as fast, forward and backward
together, in fp32 0.5 to 1.2 times, by processor and shape (`benchmarks/attention_kernels.py`).
Scores of so few tokens need no memory to speak of."""


@contextmanager
def training_attention(device: torch.device, dtype: torch.dtype, tokens: int) -> Iterator[None]:
    """Attention of rows of so many tokens as it trains fastest; the same numbers up to rounding.

    Softmax(Q K^T / sqrt(d)) V by either kernel (Dao et al., arXiv 2205.14135, algorithm 1, has the
    tiled one). Without gradients, and on a GPU, torch chooses.
    """
    short = tokens <= PLAIN_UP_TO_TOKENS.get(dtype, 0)
    if not (short and device.type == "cpu" and torch.is_grad_enabled()):
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield
