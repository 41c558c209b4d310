"""One joint step in which the main server aggregates gradients at the logits over clients.

In the manner of EPSL (Lin et al., arXiv 2303.15991). Of a share of the rows, paired over clients
(`pairing.py`), gradients at the logits are added up, and one path goes backward for all: that of
the mean activations of the pair. With K clients, b rows each and m pairs the backward pass is over
`m + K (b - m)` rows in place of K b. What comes back at the cut of a pair is one message for all.

The path of the mean needs a forward pass of its own, m rows more. Equal batches and halves give the
exact gradient, and so does one client, for whom nothing is aggregated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot, softmax

from airtune.tuning.split.halves import Messages, ServerHalf, predicting_states
from airtune.tuning.split.model import NO_LABEL, Activations
from airtune.tuning.split.pairing import Pairing, RowShapes, paired


@dataclass(frozen=True)
class SharedGradient:
    """The message of a step for all clients: the gradient at the cut of each pair, of the mean over
    clients of their summed losses [pair, token, hidden]; where it is real [pair, token]; and the
    label positions behind it, which each client adds to its own to get the gradient of its mean."""

    values: Tensor
    real: Tensor
    label_tokens: int


@dataclass(frozen=True)
class JointStep:
    """What a step leaves: each client's gradient of its own mean loss at the rows that are not
    aggregated (None where all are), the shared one, and mean losses before the step."""

    gradients: Mapping[int, Tensor | None]
    shared: SharedGradient | None
    losses: Mapping[int, float]
    backward_rows: int
    cosine: float | None = None
    rest: Mapping[int, Tensor] = field(default_factory=dict)
    """Which of a client's tokens its own gradient has [row, token]."""


def joint_step(
    server: ServerHalf, messages: Messages, step: int, ratio: float, *, compare: bool
) -> JointStep:
    """Forward, backward and the optimiser's step; with `compare` also the cosine of all clients'
    gradients at the cut to the exact ones, by a backward pass more."""
    shapes = {client: _shapes(message) for client, message in messages.items()}
    pairing = paired(list(shapes.values()), ratio)
    if pairing is None:
        return _exact_step(server, messages, step, compare=compare)
    exact = _exact_gradients(server, messages, step) if compare else {}
    every = list(messages)
    rows = {c: list(pairing.rows[k]) for k, c in enumerate(every)}
    others = {c: pairing.rest(k, len(messages[c].real)) for k, c in enumerate(every)}
    rest = {c: _part(messages[c], others[c]) for c in every if others[c]}
    chosen = {c: _part(messages[c], rows[c]) for c in every}
    common = pairing.label_tokens
    counts = {c: common + (rest[c].label_tokens if c in rest else 0) for c in every}
    total = sum(counts.values())
    summed = _backward_rest(server, rest, step, total)
    added, lost = _added_gradients(server, chosen, pairing, step)
    shared = _backward_mean(server, chosen, pairing, added / max(total, 1))
    at_rest = server.gradients_at_cut() if rest else {}
    if total:
        server.half.step()
    gradients = {c: _placed(at_rest, c, messages[c], others[c], total, counts[c]) for c in every}
    values = shared * (total / len(every))
    real = torch.arange(pairing.width)[None] < torch.tensor(pairing.tokens)[:, None]
    losses = {c: (summed.get(c, 0.0) + lost[c]) / messages[c].label_tokens for c in every}
    joint = JointStep(
        gradients,
        SharedGradient(values.cpu(), real, common),
        losses,
        len(pairing.tokens) + sum(map(len, others.values())),
        rest={c: _only(messages[c].real, others[c]) for c in every},
    )
    if not compare:
        return joint
    own = {c: full_gradient(joint, c, rows[c], messages[c], counts[c]) for c in every}
    return _with_cosine(joint, own, exact)


def full_gradient(
    joint: JointStep, client: int, rows: Sequence[int], message: Activations, count: int
) -> Tensor:
    """What a client makes of both messages: the gradient of its own mean loss at the cut."""
    own, shared = joint.gradients[client], joint.shared
    assert shared is not None
    full = torch.zeros_like(message.values) if own is None else own.cpu().clone()
    for pair, row in enumerate(rows):
        length = int(shared.real[pair].sum())
        full[row, :length] = shared.values[pair, :length] / max(count, 1)
    return full


def _exact_step(server: ServerHalf, messages: Messages, step: int, *, compare: bool) -> JointStep:
    losses = server.losses(server.forward(messages, step), messages)
    gradients = server.step_on_losses(losses, messages)
    means = {c: float(loss.detach()) / messages[c].label_tokens for c, loss in losses.items()}
    rows = sum(len(message.real) for message in messages.values())
    return JointStep(
        gradients,
        None,
        means,
        rows,
        1.0 if compare else None,
        {c: message.real for c, message in messages.items()},
    )


def _shapes(message: Activations) -> RowShapes:
    assert message.labels is not None, "gradients are aggregated where the labels are"
    return RowShapes.of(message.real.numpy(), (message.labels != NO_LABEL).numpy())


def _part(message: Activations, rows: Sequence[int]) -> Activations:
    """Some rows of a message, as wide as the longest of them."""
    real = message.real[list(rows)]
    width = int(real.sum(dim=1).max())
    assert message.labels is not None
    labels = message.labels[list(rows)][:, :width]
    count = int((labels[:, 1:] != NO_LABEL).sum())
    # The activations of a step that was compared have a graph of their own.
    values = message.values.detach()[list(rows)][:, :width]
    return Activations(values, real[:, :width], labels, count)


def _only(real: Tensor, rows: Sequence[int]) -> Tensor:
    """The mask with nothing real in other rows."""
    left = torch.zeros_like(real)
    left[list(rows)] = real[list(rows)]
    return left


def _backward_rest(server: ServerHalf, rest: Messages, step: int, total: int) -> dict[int, float]:
    """Backward of the rows that are not aggregated; the summed loss of each client's."""
    if not rest:
        return {}
    losses = server.losses(server.forward(rest, step), rest)
    (torch.stack(list(losses.values())).sum() / total).backward()
    return {client: float(loss.detach()) for client, loss in losses.items()}


def _added_gradients(
    server: ServerHalf, chosen: Messages, pairing: Pairing, step: int
) -> tuple[Tensor, dict[int, float]]:
    """At the common label positions, the sum over clients of the gradients of their summed losses
    at the logits [position, vocabulary]; and the summed loss of each client's rows."""
    added, lost = torch.zeros(()), {}
    with torch.no_grad():
        hidden = server.read(chosen, f"aggregated {step}")
        for client, message in chosen.items():
            assert message.labels is not None
            labels = message.labels.to(server.model.device)
            states, wanted = predicting_states(hidden[client], labels)
            logits = server.model.logits(states)
            terms = cross_entropy(logits, wanted, reduction="sum")
            lost[client] = float(terms)
            kept = _common(pairing, labels.shape[1])[labels[:, 1:].cpu() != NO_LABEL]
            kept = kept.to(logits.device)
            error = softmax(logits[kept], dim=-1) - one_hot(wanted[kept], logits.shape[1])
            added = error if added.dim() == 0 else added + error
    return added, lost


def _common(pairing: Pairing, width: int) -> Tensor:
    """Where a pair's next token is one that all its rows predict [pair, position before it]."""
    return torch.tensor([[bool(bits >> t & 1) for t in range(1, width)] for bits in pairing.common])


def _backward_mean(
    server: ServerHalf, chosen: Messages, pairing: Pairing, gradient: Tensor
) -> Tensor:
    """Backward along the path of the mean activations; the gradient at the cut [pair, ...]."""
    width = pairing.width
    # No pair is longer than any client's longest row among those that are paired.
    values = [message.values[:, :width] for message in chosen.values()]
    mean = torch.stack(values).mean(dim=0).to(server.model.device, server.model.dtype)
    mean.requires_grad_()
    if pairing.label_tokens == 0:
        return torch.zeros_like(mean)
    real = torch.arange(width)[None] < torch.tensor(pairing.tokens)[:, None]
    hidden = server.run_rows(mean, real)
    states = hidden[:, :-1][_common(pairing, width).to(hidden.device)]
    torch.autograd.backward(server.model.logits(states), gradient)
    assert mean.grad is not None, "some position of a pair is predicted"
    return mean.grad


def _placed(
    at_rest: Mapping[int, Tensor],
    client: int,
    message: Activations,
    rows: Sequence[int],
    total: int,
    count: int,
) -> Tensor | None:
    """A client's gradient of its own mean loss, zero at the aggregated rows; None without rows."""
    if not rows:
        return None
    full = torch.zeros(message.values.shape, device=at_rest[client].device)
    full[list(rows), : at_rest[client].shape[1]] = at_rest[client].to(full.dtype) * (
        total / max(count, 1)
    )
    return full


def _exact_gradients(server: ServerHalf, messages: Messages, step: int) -> dict[int, Tensor]:
    """Each client's gradient of its own mean loss without aggregation; no factor gets any."""
    losses = server.losses(server.forward(messages, step), messages)
    received = server.received
    found = torch.autograd.grad(
        torch.stack(list(losses.values())).sum(), [received[client] for client in messages]
    )
    return {
        client: gradient.cpu() / messages[client].label_tokens
        for client, gradient in zip(messages, found, strict=True)
    }


def _with_cosine(
    joint: JointStep, own: Mapping[int, Tensor], exact: Mapping[int, Tensor]
) -> JointStep:

    mine = torch.cat([own[client].double().flatten() for client in exact])
    theirs = torch.cat([exact[client].double().flatten() for client in exact])
    norm = float(mine.norm() * theirs.norm())
    return replace(joint, cosine=float(mine @ theirs) / norm if norm > 0 else 0.0)
