"""A client of a split model: its half, its batches, and its link across the cut."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from airtune.errors import DivergedError
from airtune.seeds import generator, integer_seed
from airtune.tuning.adapter import AdapterState
from airtune.tuning.local import TokenBatch, TrainingSettings
from airtune.tuning.split.cut_link import NO_LABEL, Activations, CutLink, StepBits, batch_labels
from airtune.tuning.split.half import TrainedHalf, predicting_states
from airtune.tuning.split.model import SplitModel


@dataclass(frozen=True)
class SplitClient:
    """One client's part in a round: one batch a local step. `carried` are its optimiser's moments
    from an earlier round; `weight` counts where server copies are averaged; `start` is its half of
    the adapter as it was received (None: as the main server has it)."""

    client: int
    split_point: int
    batches: Sequence[TokenBatch]
    weight: float = 1.0
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    start: AdapterState | None = None


@dataclass(frozen=True)
class SplitReport:
    """One client after the round: its half of the adapter; the mean loss before each local step,
    and the messages of each."""

    client: int
    state: AdapterState
    losses: tuple[float, ...]
    label_tokens: int
    cut: tuple[StepBits, ...]
    carried: Mapping[str, Tensor]

    @property
    def mean_loss(self) -> float:
        return sum(self.losses) / len(self.losses)


@final
class ClientHalf:
    """Runs the client half step by step and encodes, counts and decodes what crosses the cut."""

    def __init__(
        self,
        model: SplitModel,
        start: AdapterState,
        client: SplitClient,
        training: TrainingSettings,
        cut: CutLink,
        *,
        keeps_labels: bool,
        seed: int,
        round_index: int,
    ) -> None:
        self.client = client
        self._model, self._cut, self._keeps_labels = model, cut, keeps_labels
        self._seed, self._round = seed, round_index
        names = model.client_names(client.split_point)
        begin = start if client.start is None else client.start
        factors = {name: begin[name] for name in names}
        self._half = TrainedHalf(factors, training, client.carried, model.device)
        self._losses: list[float] = []
        self._label_tokens = 0
        self._cut_bits: list[StepBits] = []

    def send_activations(self, step: int) -> Activations:
        """Forward through the half; what the main server receives of it."""
        batch = self.client.batches[step]
        self._step, self._labels = step, batch_labels(batch)
        self._real = torch.as_tensor(batch.attention_mask, dtype=torch.bool)
        device = self._model.device
        token_ids = torch.as_tensor(batch.token_ids, dtype=torch.long, device=device)
        torch.manual_seed(integer_seed(self._seed, f"dropout {step}", self._round, self._id))
        self._sent = self._model.activations(
            self._half.factors, self.client.split_point, token_ids, self._real.to(device)
        )
        self._check(self._sent, "activations")
        labels = None if self._keeps_labels else self._labels
        count = int((self._labels != NO_LABEL).sum())
        message = Activations(self._sent.detach().cpu(), self._real, labels, count)
        payload = self._cut.encode_activations(message, self._draws("activations up"))
        self._cut_bits.append(StepBits(activations=8 * len(payload)))
        self._label_tokens += count
        return self._cut.decode_activations(payload)

    def return_gradient(self, hidden: Tensor, real: Tensor) -> Tensor:
        """U-shaped: LM head and loss on what came down; its gradient goes up."""
        payload = self._cut.encode_hidden(hidden.detach().cpu(), real, self._draws("hidden down"))
        self._count(hidden=payload)
        received = self._cut.decode_hidden(payload, self._real).to(hidden).requires_grad_()
        states, labels = predicting_states(received, self._labels.to(hidden.device))
        loss = torch.nn.functional.cross_entropy(self._model.logits(states), labels)
        (gradient,) = torch.autograd.grad(loss, received)
        self.note_loss(float(loss.detach()))
        payload = self._cut.encode_gradient(gradient.cpu(), self._real, self._draws("gradient up"))
        self._count(hidden_gradient=payload)
        return self._cut.decode_gradient(payload, real)

    def receive_gradient(self, gradient: Tensor, real: Tensor) -> None:
        """Backward through the half from the gradient of the mean loss at the cut, and step."""
        self._check(gradient, "gradients")
        payload = self._cut.encode_gradient(gradient.cpu(), real, self._draws("gradient down"))
        self._count(gradient=payload)
        received = self._cut.decode_gradient(payload, self._real).to(self._sent)
        torch.autograd.backward(self._sent, received)
        self._half.step()

    def note_loss(self, loss: float) -> None:
        """Mean loss of this step's batch, from whoever has the labels."""
        self._losses.append(loss)

    def report(self) -> SplitReport:
        """The client at the end of the round."""
        return SplitReport(
            self._id,
            self._half.state(),
            tuple(self._losses),
            self._label_tokens,
            tuple(self._cut_bits),
            self._half.moments(),
        )

    def _check(self, values: Tensor, what: str) -> None:
        """DivergedError for numbers at the cut that are infinite or not a number."""
        if not bool(values.detach().isfinite().all()):
            raise DivergedError(
                f"the {what} of client {self._id} at the cut are not finite in local step "
                f"{self._step + 1}: lower training.learning_rate."
            )

    def _count(self, **payload: bytes) -> None:
        """Add messages to those of the present step."""
        bits = {message: 8 * len(data) for message, data in payload.items()}
        self._cut_bits[-1] = replace(self._cut_bits[-1], **bits)

    @property
    def _id(self) -> int:
        return self.client.client

    def _draws(self, message: str) -> Callable[[], np.random.Generator]:
        purpose = f"cut, {message}, step {self._step}"
        return lambda: generator(self._seed, purpose, self._round, self._id)
