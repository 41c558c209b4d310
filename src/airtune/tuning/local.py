"""A client's local training: a few optimiser steps on its own shard, from the broadcast adapter.

The learning rate's factor from round to round is constant or falls towards zero (`Schedule`).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from airtune.data.batches import Batch, rows_alike
from airtune.errors import InputError
from airtune.seeds import integer_seed
from airtune.tuning.adapter import AdapterState, load_state, read_state
from airtune.tuning.blocks import checkpointed_blocks
from airtune.tuning.label_loss import TOKENS_AT_ONCE, label_losses

DECAYS: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
"""Factor at a share of the rounds after warm-up, 0 (the first of them) to below 1."""


@dataclass(frozen=True)
class Schedule:
    """A factor that depends on the round and on the number of rounds planned, and on nothing else.

    With w warm-up rounds of R planned, round r (from 0) trains at

        (r + 1) / (w + 1)          for r < w
        decay((r - w) / (R - w))   after

    of the learning rate, the same for all steps of the round; the round after the last would be at
    zero. So a decay ends with R: where R is raised later, rounds to come follow the longer schedule
    from the current round on, and rounds already made stay as they were.
    """

    kind: str = "constant"
    rounds: int = 1
    warmup_rounds: int = 0

    def __post_init__(self) -> None:
        if self.kind not in DECAYS:
            raise InputError("training.schedule", self.kind, f"one of {', '.join(DECAYS)}")
        if not 0 <= self.warmup_rounds < self.rounds:
            raise InputError(
                "training.warmup_rounds",
                self.warmup_rounds,
                f"at least 0 and below the number of rounds, {self.rounds}",
            )

    def factor(self, round_index: int) -> float:
        """What the learning rate is multiplied by in this round (from 0)."""
        if round_index < self.warmup_rounds:
            return (round_index + 1) / (self.warmup_rounds + 1)
        after = round_index - self.warmup_rounds
        return DECAYS[self.kind](after / (self.rounds - self.warmup_rounds))


Penalty: TypeAlias = Callable[[Mapping[str, Tensor]], Tensor]
"""A term added to a step's mean loss, from the trained parameters by name."""


class TokenBatch(Protocol):
    """What training reads of a batch (`airtune.data.batches.Batch`): arrays of [row, token]."""

    @property
    def token_ids(self) -> Any: ...
    @property
    def attention_mask(self) -> Any: ...
    @property
    def label_mask(self) -> Any: ...


@dataclass(frozen=True)
class TrainingSettings:
    """Local optimisation; `keep_optimizer` carries a client's moments over to its next round.

    `micro_batches` are parts of a step's rows that are run one after another; `checkpointing` runs
    each block once more in the backward pass instead of keeping what it needs. `tokens_at_once` is
    what one forward pass is given (None: `label_loss.TOKENS_AT_ONCE` of the device).
    """

    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    batch_size: int = 8
    local_steps: int = 10
    max_grad_norm: float = 1.0
    keep_optimizer: bool = False
    schedule: Schedule = field(default_factory=Schedule)
    weight_decay: float = 0.0
    micro_batches: int = 1
    checkpointing: bool = False
    tokens_at_once: int | None = None

    def limit(self, device: str) -> int:
        """Tokens of one forward pass on this kind of device, padding included."""
        return self.tokens_at_once or TOKENS_AT_ONCE[device]

    def in_round(self, round_index: int) -> "TrainingSettings":
        """The settings of one round, its learning rate as scheduled and fixed."""
        return replace(self, learning_rate=self.rate(round_index), schedule=Schedule())

    def rate(self, round_index: int) -> float:
        """The learning rate of one round (from 0)."""
        return self.learning_rate * self.schedule.factor(round_index)


@dataclass(frozen=True)
class LocalResult:
    """The adapter after local training, the loss before each step, and what is carried over.

    `base` is what the change is counted from, where that is not what came down in this round;
    `measured` are numbers for the round's record; `coefficients` are what was found on directions
    from a seed, for codecs that send them in place of the change.
    """

    state: AdapterState
    losses: tuple[float, ...]
    label_tokens: int
    carried: dict[str, Tensor] = field(default_factory=dict)
    base: AdapterState | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    coefficients: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def mean_loss(self) -> float:
        return sum(self.losses) / len(self.losses)


def completion_loss(model: Any, batch: TokenBatch) -> tuple[Tensor, int]:
    """Summed cross-entropy over the completion tokens of a batch [nat], and their count.

    Position t predicts token t + 1. Logits are taken in fp32, whatever the model's dtype, and only
    where a completion token is predicted, and the clock is charged for as many. (Memory is charged
    with logits of every position: a device need not save it as this machine does.)
    """
    losses = completion_losses(model, batch)
    return losses.sum(), len(losses)


def completion_losses(model: Any, batch: TokenBatch) -> Tensor:
    """Cross-entropy of every completion token of a batch [label], fp32 [nat]."""
    device = next(model.parameters()).device
    token_ids = torch.as_tensor(batch.token_ids, dtype=torch.long, device=device)
    real = torch.as_tensor(batch.attention_mask, dtype=torch.long, device=device)
    wanted = torch.as_tensor(batch.label_mask, dtype=torch.bool, device=device)
    return label_losses(model, token_ids, real, wanted)


def parts_of(batch: TokenBatch, tokens: int) -> list[TokenBatch]:
    """A batch of at most so many tokens, padding included, as it is; the rows of a larger one in
    parts, those of like length together and each part as wide as its longest row."""
    if batch.token_ids.size <= tokens:
        return [batch]
    arrays = (batch.token_ids, batch.attention_mask, batch.label_mask)
    length = np.where(arrays[1], np.arange(1, arrays[1].shape[1] + 1), 1).max(axis=1)
    return [
        Batch(*(array[rows, : length[rows].max()] for array in arrays))
        for rows in rows_alike(length, tokens)
    ]


def micro_batches(batch: TokenBatch, number: int) -> list[TokenBatch]:
    """The rows of a batch in so many consecutive parts, the first of them the largest.

    Parts are as wide as the batch. A batch of fewer rows has as many parts as rows.
    """
    rows = len(batch.token_ids)
    if number == 1 or rows == 1:
        return [batch]
    arrays = (batch.token_ids, batch.attention_mask, batch.label_mask)
    divided = (np.array_split(array, min(number, rows)) for array in arrays)
    return [Batch(*parts) for parts in zip(*divided, strict=True)]


def _add_gradients(
    model: Any, batch: TokenBatch, limit: int, penalty: Tensor | None, micro: int
) -> tuple[float, int]:
    """Leave the gradient of the mean loss, and the penalty, with the parameters, a part of the
    batch at a time: the mean loss and its label tokens.

    Every part is weighted by its label tokens, so that all of them together are the batch.
    """
    count = int(batch.label_mask[:, 1:].sum())
    total = 0.0
    divided = (parts_of(small, limit) for small in micro_batches(batch, micro))
    for part in (part for parts in divided for part in parts):
        loss, _ = completion_loss(model, part)
        (loss / count if penalty is None else loss / count + penalty).backward()
        total, penalty = total + float(loss.detach()), None
    return total / count, count


def make_optimizer(
    parameters: list[Tensor], settings: TrainingSettings, *, fused: bool | None = None
) -> torch.optim.Optimizer:
    """AdamW with decoupled weight decay, or plain SGD, which adds the decay to the gradient; none
    by default (LoRA factors are small).

    `fused` reads and writes large parameters once instead of once an operation.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, fused=fused)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=fused)


def train_locally(
    model: Any,
    start: AdapterState,
    batches: Iterable[TokenBatch],
    settings: TrainingSettings,
    dropout_seed: tuple[int, int, int],
    carried: dict[str, Tensor] | None = None,
    penalty: Penalty | None = None,
) -> LocalResult:
    """Run one optimiser step per batch, each on the mean loss over the batch's completion tokens.

    `dropout_seed` is (seed, round, client): LoRA dropout draws from that stream and leaves the
    global generator as it was. `penalty` is trained on, but not part of the losses reported.
    """
    load_state(model, start)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters = list(named.values())
    optimizer = make_optimizer(parameters, settings)
    if settings.keep_optimizer and carried:
        _restore(optimizer, parameters, carried)
    losses, label_tokens = [], 0
    with torch.random.fork_rng(devices=[]), checkpointed_blocks(model, settings.checkpointing):
        seed, round_index, client = dropout_seed
        torch.manual_seed(integer_seed(seed, "dropout", round_index, client))
        set_lora_dropout(model, training=True)
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            more = None if penalty is None else penalty(named)
            limit = settings.limit(parameters[0].device.type)
            loss, count = _add_gradients(model, batch, limit, more, settings.micro_batches)
            if settings.max_grad_norm > 0:
                torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            optimizer.step()
            losses.append(loss)
            label_tokens += count
        set_lora_dropout(model, training=False)
    kept = _moments(optimizer, parameters) if settings.keep_optimizer else {}
    return LocalResult(read_state(model), tuple(losses), label_tokens, kept)


def set_lora_dropout(model: Any, *, training: bool) -> None:
    """Switch LoRA's dropout on or off; the base model's own stays off."""
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train(training)


def _moments(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> dict[str, Tensor]:
    """Optimiser state as named tensors: `<parameter index>.<entry>`."""
    return {
        f"{index}.{entry}": value.detach().to("cpu", copy=True)
        for index, parameter in enumerate(parameters)
        for entry, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def _restore(
    optimizer: torch.optim.Optimizer, parameters: list[Tensor], carried: dict[str, Tensor]
) -> None:
    for name, value in carried.items():
        index, _, entry = name.partition(".")
        parameter = parameters[int(index)]
        optimizer.state[parameter][entry] = placed(value, parameter)


def placed(moment: Tensor, parameter: Tensor) -> Tensor:
    """A copy of an optimiser's entry where its unfused step needs it: step counts stay with the
    processor, moments go where their parameter is."""
    return moment.clone() if moment.dim() == 0 else moment.to(parameter.device, copy=True)
