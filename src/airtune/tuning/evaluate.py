"""Test loss, perplexity and generated text of an adapted model."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from airtune.tuning.local import TokenBatch, completion_loss


@dataclass(frozen=True)
class Evaluation:
    """Mean loss per completion token over a whole test set [nat]."""

    loss: float
    label_tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where it does not fit a float."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@dataclass(frozen=True)
class ClientEvaluation(Evaluation):
    """Of all clients' held-out rows together, each read with its client's own adapter; and the mean
    loss of each client that has such rows [nat]."""

    of_clients: Mapping[int, float] = field(default_factory=dict)


def evaluate(model: Any, batches: Iterable[TokenBatch]) -> Evaluation:
    """Sum the loss over all completion tokens, then divide once, so batching does not matter."""
    return total_loss(batch_losses(model, batches))


def batch_losses(model: Any, batches: Iterable[TokenBatch]) -> list[tuple[float, int]]:
    """Summed loss [nat] and label tokens of each batch."""
    with torch.inference_mode():
        losses = [completion_loss(model, batch) for batch in batches]
    return [(float(loss), tokens) for loss, tokens in losses]


def total_loss(losses: Sequence[tuple[float, int]]) -> Evaluation:
    """The evaluation that batches make up together."""
    total = sum((loss for loss, _ in losses), 0.0)
    count = sum(tokens for _, tokens in losses)
    return Evaluation(total / count, count)


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stops: Sequence[int] = (),
    most_tokens: int | None = None,
) -> list[str]:
    """Greedy continuations of token-id prompts, decoded.

    Each is cut at the end-of-text token, or at one of `stops`. A model with learned positions
    cannot read beyond the last one: prompt and continuation have `most_tokens` together (None: no
    limit), so an answer to a long prompt may be shorter.
    """
    allowed = [
        max_new_tokens if most_tokens is None else min(max_new_tokens, most_tokens - len(prompt))
        for prompt in prompts
    ]
    answers = [""] * len(prompts)
    # Prompts of a call share its length, so each length has a call of its own: usually just one.
    for length in sorted({count for count in allowed if count > 0}, reverse=True):
        rows = [row for row, count in enumerate(allowed) if count == length]
        part = _continued(model, tokenizer, [prompts[row] for row in rows], length, stops)
        for row, text in zip(rows, part, strict=True):
            answers[row] = text
    return answers


def _continued(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stops: Sequence[int],
) -> list[str]:
    """So many tokens after each prompt at most."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    width = max(len(prompt) for prompt in prompts)
    # Left padding: every row's next token is then in the same column.
    ids = torch.full((len(prompts), width), pad or 0, dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.as_tensor(list(prompt), dtype=torch.long)
        mask[row, width - len(prompt) :] = 1
    eos = tokenizer.eos_token_id
    ends = [*stops] if eos is None else [eos, *stops]
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad or 0,
            eos_token_id=ends or None,
        )
    return [_decoded(tokenizer, row[width:].tolist(), ends) for row in output]


def _decoded(tokenizer: Any, ids: list[int], ends: Sequence[int]) -> str:
    stop = next((at for at, token in enumerate(ids) if token in ends), len(ids))
    return str(tokenizer.decode(ids[:stop], skip_special_tokens=True)).strip()
