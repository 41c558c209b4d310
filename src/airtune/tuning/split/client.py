"""A client's half in training, and how the main server sees it: by encoded messages over a link.

The half may be in this process or in another one: it takes and gives bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar, final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from airtune.errors import ClientLostError, DivergedError
from airtune.round_plan import MAIN_SERVER
from airtune.seeds import generator, integer_seed
from airtune.tuning.adapter import AdapterState
from airtune.tuning.local import TokenBatch, TrainingSettings
from airtune.tuning.split.aggregation import SharedGradient
from airtune.tuning.split.halves import TrainedHalf, predicting_states
from airtune.tuning.split.model import (
    NO_LABEL,
    Activations,
    CutLink,
    Draws,
    SplitModel,
    StepBits,
    batch_labels,
)
from airtune.tuning.split.pairing import RowShapes


class ClientLink(Protocol):
    """What carries one client's messages across the cut, as the main server sees it.

    Messages of a step: activations up; with labels at the client hidden states down and their
    gradient up, with the loss beside it; then the gradient down. What is sent is taken at once, so
    that several clients compute at the same time. Each raises `ClientLostError` where the client is
    gone for good. `steps` is the number of local steps.
    """

    @property
    def steps(self) -> int: ...
    def activations(self, step: int) -> bytes: ...
    def send_hidden(self, payload: bytes) -> None: ...
    def hidden_gradient(self) -> tuple[bytes, float]: ...
    def send_gradient(self, payload: bytes) -> None: ...
    def finish(self) -> "ClientResult": ...


@dataclass(frozen=True)
class ClientResult:
    """A client's half after the round and its optimiser's moments; `payload` instead of the half
    where the client has encoded its change itself."""

    state: AdapterState
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    payload: bytes | None = None


@dataclass(frozen=True)
class SplitClient:
    """One client's part in a round: one batch a local step. `carried` are its optimiser's moments
    from an earlier round; `weight` counts where server copies are averaged; `start` is its half of
    the adapter as it was received (None: as the main server has it). `link` leads to a client of
    another process (None: it is trained here). `cut_dropout` and `cut_format` are its own at the
    cut (None: the format of all). `model` is what its half runs on where that is smaller than the
    whole one, with `start` in its shapes."""

    client: int
    split_point: int
    batches: Sequence[TokenBatch]
    weight: float = 1.0
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    start: AdapterState | None = None
    link: ClientLink | None = None
    cut_dropout: float = 0.0
    cut_format: str | None = None
    model: SplitModel | None = None

    @property
    def steps(self) -> int:
        """Local steps of the round."""
        return len(self.batches) if self.link is None else self.link.steps


@dataclass(frozen=True)
class SplitReport:
    """One client after the round: its result; the mean loss before each local step, and the
    messages of each."""

    client: int
    result: ClientResult
    losses: tuple[float, ...]
    label_tokens: int
    cut: tuple[StepBits, ...]

    @property
    def state(self) -> AdapterState:
        """Its half of the adapter."""
        return self.result.state

    @property
    def carried(self) -> Mapping[str, Tensor]:
        """Its optimiser's moments, if they are kept."""
        return self.result.carried

    @property
    def mean_loss(self) -> float:
        return sum(self.losses) / len(self.losses)


@final
class ClientHalf:
    """Runs the client half step by step: messages come in and go out encoded (a `ClientLink`)."""

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
        self._model = model = client.model or model
        self._link = cut.of_client(client.cut_dropout, client.cut_format)
        self._seed, self._round = seed, round_index
        names = model.client_names(client.split_point)
        begin = start if client.start is None else client.start
        factors = {name: begin[name] for name in names}
        self._half = TrainedHalf(factors, training, client.carried, model.device)
        self.keeps_labels = keeps_labels
        self._hidden = self._shared = b""

    @property
    def steps(self) -> int:
        """Local steps, one a batch."""
        return len(self.client.batches)

    def activations(self, step: int) -> bytes:
        """Forward through the half; the message to the main server."""
        batch = self.client.batches[step]
        self._step, self._labels = step, batch_labels(batch)
        self._cut = self._link.in_step(self._draws("mask"))
        self._real = torch.as_tensor(batch.attention_mask, dtype=torch.bool)
        device = self._model.device
        token_ids = torch.as_tensor(batch.token_ids, dtype=torch.long, device=device)
        number = self.client.client
        torch.manual_seed(integer_seed(self._seed, f"dropout {step}", self._round, number))
        self._sent = self._model.activations(
            self._half.factors, self.client.split_point, token_ids, self._real.to(device)
        )
        _check(self._sent, "activations", number, step)
        labels = None if self.keeps_labels else self._labels
        count = int((self._labels != NO_LABEL).sum())
        message = Activations(self._sent.detach().cpu(), self._real, labels, count)
        return self._cut.encode_activations(message, self._draws("activations up"))

    def send_hidden(self, payload: bytes) -> None:
        """U-shaped: the final hidden states as they came down."""
        self._hidden = payload

    def hidden_gradient(self) -> tuple[bytes, float]:
        """LM head and loss on the hidden states; the message with their gradient, and the loss."""
        received = self._cut.decode_hidden(self._hidden, self._real).to(self._sent)
        received.requires_grad_()
        states, labels = predicting_states(received, self._labels.to(received.device))
        loss = cross_entropy(self._model.logits(states), labels)
        (gradient,) = torch.autograd.grad(loss, received)
        payload = self._cut.encode_gradient(gradient.cpu(), self._real, self._draws("gradient up"))
        return payload, float(loss.detach())

    def send_shared(self, payload: bytes) -> None:
        """The gradient of the rows that are aggregated over clients, before that of the others."""
        self._shared = payload

    def send_gradient(self, payload: bytes) -> None:
        """Backward through the half from the gradient of the mean loss at the cut, and step."""
        if self._shared:
            received = self._merged(payload).to(self._sent)
        else:
            received = self._cut.decode_gradient(payload, self._real).to(self._sent)
        torch.autograd.backward(self._sent, received)
        self._shared = b""
        self._half.step()

    def _merged(self, payload: bytes) -> Tensor:
        """The gradient of its mean loss over the labels that count, of its own message and of the
        shared one; the latter is of the mean of all clients' summed losses."""
        values, real, common = self._cut.decode_shared(self._shared)
        wanted = (self._labels != NO_LABEL).numpy()
        rows = RowShapes.of(self._real.numpy(), wanted).ranked()[: len(real)]
        own = self._real.clone()
        own[rows] = False
        merged = torch.zeros(self._sent.shape)
        if payload:
            merged = self._cut.decode_gradient(payload, own)
        count = common + int((self._labels[own.any(dim=1)] != NO_LABEL).sum())
        for pair, row in enumerate(rows):
            length = int(real[pair].sum())
            merged[row, :length] = values[pair, :length] / max(count, 1)
        return merged

    def finish(self) -> ClientResult:
        """The client's part of the adapter and its moments at the end of the round."""
        return ClientResult(self._half.state(), self._half.moments())

    def _draws(self, message: str) -> Draws:
        return cut_draws(self._seed, message, self._step, self._round, self.client.client)


def cut_draws(seed: int, message: str, step: int, round_index: int, client: int) -> Draws:
    """The random draws behind one message's number format."""
    return lambda: generator(seed, f"cut, {message}, step {step}", round_index, client)


def _check(values: Tensor, what: str, client: int, step: int) -> None:
    """DivergedError for numbers at the cut that are infinite or not a number."""
    if not bool(values.detach().isfinite().all()):
        raise DivergedError(
            f"the {what} of client {client} at the cut are not finite in local step "
            f"{step + 1}: lower training.learning_rate."
        )


Decoded = TypeVar("Decoded")


@final
class ServedClient:
    """One client as the main server sees it: encodes, counts and decodes what crosses the cut."""

    def __init__(
        self, link: ClientLink, client: SplitClient, cut: CutLink, seed: int, round_index: int
    ) -> None:
        self.client, self._link = client, link
        self._whole_cut = cut.of_client(client.cut_dropout, client.cut_format)
        self._seed, self._round = seed, round_index
        self._losses: list[float] = []
        self._label_tokens = 0
        self._cut_bits: list[StepBits] = []

    def receive_activations(self, step: int) -> Activations:
        """What came up in this step."""
        self._step = step
        self._cut = self._whole_cut.in_step(self._draws("mask"))
        payload = self._link.activations(step)
        self._cut_bits.append(StepBits(activations=8 * len(payload)))
        message = self._decoded(lambda: self._cut.decode_activations(payload))
        self._label_tokens += message.label_tokens
        return message

    def send_hidden(self, hidden: Tensor, real: Tensor) -> None:
        """U-shaped: the final hidden states to the side that has the labels."""
        payload = self._cut.encode_hidden(hidden.detach().cpu(), real, self._draws("hidden down"))
        self._count(hidden=payload)
        self._link.send_hidden(payload)

    def receive_hidden_gradient(self, real: Tensor) -> Tensor:
        """U-shaped: the gradient of the client's mean loss at the hidden states."""
        payload, loss = self._link.hidden_gradient()
        self._count(hidden_gradient=payload)
        self.note_loss(loss)
        return self._decoded(lambda: self._cut.decode_gradient(payload, real))

    def send_gradient(self, gradient: Tensor, real: Tensor) -> None:
        """The gradient of the mean loss at the cut, down."""
        _check(gradient, "gradients", self.client.client, self._step)
        payload = self._cut.encode_gradient(gradient.cpu(), real, self._draws("gradient down"))
        self._count(gradient=payload)
        self._link.send_gradient(payload)

    def send_shared(self, shared: SharedGradient) -> None:
        """The gradient of the aggregated rows, the same message for every client."""
        assert isinstance(self._link, ClientHalf), "deployments do not aggregate gradients"
        draws = cut_draws(self._seed, "shared gradient down", self._step, self._round, MAIN_SERVER)
        payload = self._cut.encode_shared(shared.values, shared.real, shared.label_tokens, draws)
        self._count(shared=payload)
        self._link.send_shared(payload)

    def send_no_gradient(self) -> None:
        """Where all rows are aggregated, no message of its own follows the shared one."""
        self._link.send_gradient(b"")

    def note_loss(self, loss: float) -> None:
        """Mean loss of this step's batch, from the side that has the labels."""
        self._losses.append(loss)

    def report(self) -> SplitReport:
        """The client at the end of the round."""
        return SplitReport(
            self.client.client,
            self._link.finish(),
            tuple(self._losses),
            self._label_tokens,
            tuple(self._cut_bits),
        )

    def _decoded(self, decode: Callable[[], Decoded]) -> Decoded:
        """A message from a client; one of another process whose message is damaged is lost."""
        if self.client.link is None:
            return decode()
        try:
            return decode()
        except Exception as error:  # whatever a damaged payload makes a decoder raise
            raise ClientLostError(
                f"client {self.client.client} sent a message that cannot be decoded ({error})"
            ) from error

    def _count(self, **payload: bytes) -> None:
        """Add messages to those of the present step."""
        bits = {message: 8 * len(data) for message, data in payload.items()}
        self._cut_bits[-1] = replace(self._cut_bits[-1], **bits)

    def _draws(self, message: str) -> Draws:
        return cut_draws(self._seed, message, self._step, self._round, self.client.client)
