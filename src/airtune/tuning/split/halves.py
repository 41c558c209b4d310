"""The main server's side of a split model in training, and what both sides train by.

Each side holds its factors and their optimiser (`TrainedHalf`). The main server makes one step at a
time, for some or all clients, and has the loss at the end.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from airtune.errors import InputError
from airtune.seeds import integer_seed
from airtune.tuning.adapter import AdapterState
from airtune.tuning.local import TrainingSettings, make_optimizer, placed
from airtune.tuning.split.model import (
    NO_LABEL,
    Activations,
    SplitModel,
)


@final
class TrainedHalf:
    """Adapter factors as leaves of their own, so that many halves share one frozen base.

    Optimiser moments are kept by tensor name: where a client's split point moves between rounds,
    blocks that changed sides start with fresh moments. What goes out is on the processor.
    """

    def __init__(
        self,
        factors: AdapterState,
        training: TrainingSettings,
        carried: Mapping[str, Tensor],
        device: torch.device,
    ) -> None:
        if not factors:
            raise InputError(
                "adapter.target_modules",
                "absent from one side of the cut",
                "present in blocks on both sides",
            )
        self.factors = {
            name: value.detach().to(device, torch.float32, copy=True).requires_grad_()
            for name, value in factors.items()
        }
        self._training = training
        self._optimizer = make_optimizer(list(self.factors.values()), training)
        if training.keep_optimizer:
            for key, value in carried.items():
                name, _, entry = key.rpartition("/")
                if name in self.factors:
                    factor = self.factors[name]
                    self._optimizer.state[factor][entry] = placed(value, factor)

    def step(self) -> None:
        """One optimiser step on the gradients since the last one, clipped by their norm."""
        if self._training.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.factors.values(), self._training.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state(self) -> AdapterState:
        """A copy of the factors."""
        return {name: factor.detach().to("cpu", copy=True) for name, factor in self.factors.items()}

    def moments(self) -> dict[str, Tensor]:
        """What the optimiser carries over: `<tensor name>/<entry>`; empty unless it is kept."""
        if not self._training.keep_optimizer:
            return {}
        return {
            f"{name}/{entry}": value.detach().to("cpu", copy=True)
            for name, factor in self.factors.items()
            for entry, value in self._optimizer.state[factor].items()
            if isinstance(value, Tensor)
        }


def predicting_states(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The final hidden states that a label is predicted from [label, hidden], and the labels.

    Position t predicts token t + 1, so the LM head runs on these alone.
    """
    wanted = labels[:, 1:] != NO_LABEL
    return hidden[:, :-1][wanted], labels[:, 1:][wanted]


Messages = Mapping[int, Activations]
"""Client -> what arrived from it."""


@final
class ServerHalf:
    """A server side that trains on the clients in `split_points`, in one step on all their batches.

    Clients with the same split point are run as one batch, the shorter ones padded. A block is
    trained on the mean loss of the clients that the server runs it for: between two cuts those are
    some of them, and the federated server weighs the block with their share when it merges.
    """

    def __init__(
        self,
        model: SplitModel,
        start: AdapterState,
        split_points: Mapping[int, int],
        training: TrainingSettings,
        carried: Mapping[str, Tensor],
        *,
        seed: int,
        round_index: int,
    ) -> None:
        self.split_points = split_points
        self.model = self._model = model
        names = model.server_names(min(split_points.values()))
        factors = {name: start[name] for name in names}
        self.half = TrainedHalf(factors, training, carried, model.device)
        self._seed, self._round = seed, round_index

    def forward(self, messages: Messages, step: int) -> dict[int, Tensor]:
        """Final hidden states of each client [row, token, hidden], in the order of the clients."""
        torch.manual_seed(
            integer_seed(self._seed, f"server dropout {step}", self._round, min(messages))
        )
        self.received = {
            client: message.values.to(self._model.device, self._model.dtype).requires_grad_()
            for client, message in messages.items()
        }
        return self._run(messages, self.received)

    def read(self, messages: Messages, purpose: str) -> dict[int, Tensor]:
        """The same of messages that nothing goes back to; `purpose` is that of dropout's draws."""
        torch.manual_seed(
            integer_seed(self._seed, f"server dropout {purpose}", self._round, min(messages))
        )
        values = {
            client: message.values.to(self._model.device, self._model.dtype)
            for client, message in messages.items()
        }
        return self._run(messages, values)

    def run_rows(self, values: Tensor, real: Tensor) -> Tensor:
        """Final hidden states of rows that belong to no client, at the cut of all clients."""
        (split_point,) = set(self.split_points.values())
        return self._model.hidden(
            self.half.factors, split_point, values, real.to(self._model.device)
        )

    def gradients_at_cut(self) -> dict[int, Tensor]:
        """What came back to the activations of the last forward pass; zero where nothing did."""
        return {
            client: torch.zeros_like(value) if value.grad is None else value.grad
            for client, value in self.received.items()
        }

    def _run(self, messages: Messages, values: Mapping[int, Tensor]) -> dict[int, Tensor]:
        alike: dict[int, list[int]] = defaultdict(list)
        for client in messages:
            alike[self.split_points[client]].append(client)
        hidden: dict[int, Tensor] = {}
        for split_point, clients in alike.items():
            together = {c: messages[c] for c in clients}
            hidden |= self._forward_together(split_point, together, values)
        return {client: hidden[client] for client in messages}

    def _forward_together(
        self, split_point: int, messages: Messages, received: Mapping[int, Tensor]
    ) -> dict[int, Tensor]:
        width = max(message.real.shape[1] for message in messages.values())
        values, masks = [], []
        for client, message in messages.items():
            missing = width - message.real.shape[1]
            values.append(pad(received[client], (0, 0, 0, missing)))
            masks.append(pad(message.real, (0, missing)))
        hidden = self._model.hidden(
            self.half.factors,
            split_point,
            torch.cat(values),
            torch.cat(masks).to(self._model.device),
        )
        rows = torch.split(hidden, [len(message.real) for message in messages.values()])
        return {
            client: part[:, : message.real.shape[1]]
            for (client, message), part in zip(messages.items(), rows, strict=True)
        }

    def losses(self, hidden: Mapping[int, Tensor], messages: Messages) -> dict[int, Tensor]:
        """Summed loss of each client's labels [nat]; the LM head runs once, on all of them."""
        wanted = {c: _labels(message).to(self._model.device) for c, message in messages.items()}
        pairs = [predicting_states(hidden[c], wanted[c]) for c in messages]
        logits = self._model.logits(torch.cat([states for states, _ in pairs]))
        labels = torch.cat([labels for _, labels in pairs])
        terms = cross_entropy(logits, labels, reduction="none")
        parts = torch.split(terms, [len(labels) for _, labels in pairs])
        return {client: part.sum() for client, part in zip(messages, parts, strict=True)}

    def step_on_losses(self, losses: Mapping[int, Tensor], messages: Messages) -> dict[int, Tensor]:
        """Backward from the mean over all label tokens, step, and each client's gradient."""
        total = torch.stack(list(losses.values())).sum()
        (total / _label_tokens(messages)).backward()
        return self._finish(messages)

    def step_on_gradients(
        self, hidden: Mapping[int, Tensor], gradients: Mapping[int, Tensor], messages: Messages
    ) -> dict[int, Tensor]:
        """The same from gradients of each client's own mean loss (U-shaped)."""
        everything = _label_tokens(messages)
        shares = {client: m.label_tokens / everything for client, m in messages.items()}
        torch.autograd.backward(
            list(hidden.values()),
            [gradients[client].to(hidden[client]) * shares[client] for client in hidden],
        )
        return self._finish(messages)

    def _finish(self, messages: Messages) -> dict[int, Tensor]:
        """Step; the gradient at the cut of each client's OWN mean loss [row, token, hidden].

        The server's objective holds a client's mean with its share of the label tokens. Averaging
        client halves weighs them by that share once more, so it is taken out here.
        """
        everything = _label_tokens(messages)
        gradients: dict[int, Tensor] = {}
        for client, message in messages.items():
            gradient = self.received[client].grad
            assert gradient is not None, "the loss depends on every client's activations"
            gradients[client] = gradient * (everything / message.label_tokens)
        self._average_over_served(messages)
        self.half.step()
        return gradients

    def _average_over_served(self, messages: Messages) -> None:
        """Turn each block's gradient into that of the mean over the label tokens it was run for.

        The objective is the mean over all clients' label tokens, so a block that the server runs
        for some of them only has a gradient short by their share.
        """
        everything = _label_tokens(messages)
        for name, factor in self.half.factors.items():
            block = self._model.block_of(name)
            served = sum(
                message.label_tokens
                for client, message in messages.items()
                if self.split_points[client] <= block
            )
            if served < everything and factor.grad is not None:
                factor.grad *= everything / served


def _label_tokens(messages: Messages) -> int:
    return sum(message.label_tokens for message in messages.values())


def _labels(message: Activations) -> Tensor:
    assert message.labels is not None, "labels stay at the client in the U-shaped variant only"
    return message.labels
