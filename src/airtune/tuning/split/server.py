"""The main server of a split model: its half, one step at a time, for some or all clients."""

from collections import defaultdict
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from airtune.seeds import integer_seed
from airtune.tuning.adapter import AdapterState
from airtune.tuning.local import TrainingSettings
from airtune.tuning.split.cut_link import Activations
from airtune.tuning.split.half import TrainedHalf, predicting_states
from airtune.tuning.split.model import SplitModel

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
        self._model = model
        names = model.server_names(min(split_points.values()))
        factors = {name: start[name] for name in names}
        self.half = TrainedHalf(factors, training, carried, model.device)
        self._seed, self._round = seed, round_index

    def forward(self, messages: Messages, step: int) -> dict[int, Tensor]:
        """Final hidden states of each client [row, token, hidden], in the order of the clients."""
        torch.manual_seed(
            integer_seed(self._seed, f"server dropout {step}", self._round, min(messages))
        )
        self._received = {
            client: message.values.to(self._model.device, self._model.dtype).requires_grad_()
            for client, message in messages.items()
        }
        alike: dict[int, list[int]] = defaultdict(list)
        for client in messages:
            alike[self.split_points[client]].append(client)
        hidden: dict[int, Tensor] = {}
        for split_point, clients in alike.items():
            hidden |= self._forward_together(split_point, {c: messages[c] for c in clients})
        return {client: hidden[client] for client in messages}

    def _forward_together(self, split_point: int, messages: Messages) -> dict[int, Tensor]:
        width = max(message.real.shape[1] for message in messages.values())
        values, masks = [], []
        for client, message in messages.items():
            missing = width - message.real.shape[1]
            values.append(pad(self._received[client], (0, 0, 0, missing)))
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
        (total / _label_tokens(messages)).backward()  # type: ignore[no-untyped-call]
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
            gradient = self._received[client].grad
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
