"""A causal language model cut after any of its blocks, without a line of its own forward pass.

A half is the model's own code on a shallow copy whose list of blocks is changed: the client's
first blocks are followed by a tap that stores its input, the server's last blocks are
preceded by a source that returns what arrived. So embeddings and their scaling, rotary
positions, the causal mask (from the 2-D mask and the positions) and the final norm are made by the
family's own forward pass, on each side of the cut for itself, and every block keeps its index.

What crosses the cut goes over a `CutLink`, which turns it into bytes.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from airtune.errors import InputError
from airtune.tuning.blocks import find_blocks
from airtune.tuning.local import TokenBatch, set_lora_dropout

NO_LABEL = -1
"""In `labels`: nothing is to be predicted here."""

Draws: TypeAlias = Callable[[], np.random.Generator]
"""The stream of stochastic rounding; used only where something is rounded at random."""


@dataclass(frozen=True)
class Activations:
    """What a client sends up once a step: named axes [row, token] and [row, token, hidden].

    `real` is True where there is no padding. `labels` are token ids, or `NO_LABEL`; None where
    labels stay at the client, which then sends only their number.
    """

    values: Tensor
    real: Tensor
    labels: Tensor | None
    label_tokens: int


def batch_labels(batch: TokenBatch) -> Tensor:
    """Token ids at the label positions of a batch, `NO_LABEL` elsewhere [row, token].

    Nothing precedes a row's first token, so it is never predicted.
    """
    token_ids = torch.as_tensor(batch.token_ids, dtype=torch.long)
    wanted = torch.as_tensor(batch.label_mask, dtype=torch.bool).clone()
    wanted[:, 0] = False
    return torch.where(wanted, token_ids, NO_LABEL)


@dataclass(frozen=True)
class StepBits:
    """One client's messages across the cut in one local step [bit], in the order of their travel.

    `hidden` comes down and `hidden_gradient` goes up only where labels stay at the client.
    `shared` is a gradient that is one message for all clients of the step.
    """

    activations: int = 0
    hidden: int = 0
    hidden_gradient: int = 0
    gradient: int = 0
    shared: int = 0

    @property
    def uplink(self) -> int:
        return self.activations + self.hidden_gradient

    @property
    def downlink(self) -> int:
        return self.hidden + self.gradient + self.shared


class CutLink(Protocol):
    """The codec at the cut (`airtune.update.cut.CutCodec`); only real tokens travel.

    Hidden states and gradients are [row, token, hidden]; the decoder has `real`, and
    padding comes back as zeros.
    """

    def of_client(self, dropout: float, number_format: str | None) -> "CutLink": ...
    def in_step(self, mask: Draws) -> "CutLink": ...
    def encode_activations(self, message: Activations, draws: Draws) -> bytes: ...
    def decode_activations(self, payload: bytes) -> Activations: ...
    def encode_hidden(self, values: Tensor, real: Tensor, draws: Draws) -> bytes: ...
    def decode_hidden(self, payload: bytes, real: Tensor) -> Tensor: ...
    def encode_gradient(self, values: Tensor, real: Tensor, draws: Draws) -> bytes: ...
    def encode_shared(
        self, values: Tensor, real: Tensor, label_tokens: int, draws: Draws
    ) -> bytes: ...
    def decode_shared(self, payload: bytes) -> tuple[Tensor, Tensor, int]: ...
    def decode_gradient(self, payload: bytes, real: Tensor) -> Tensor: ...


_PEFT_PREFIX = "base_model.model."


class _Tap(nn.Module):
    """Stores the hidden states that reach it."""

    seen: Tensor

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        self.seen = hidden
        return hidden


class _Source(nn.Module):
    """Answers with hidden states that came from elsewhere."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self.hidden


class _FinishedBody(nn.Module):
    """Replaces everything before the LM head."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *_: Any, **__: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        output = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.hidden)
        # Mixtures of experts hand it on.
        output.router_logits = None
        return output


def _with_child(module: nn.Module, path: str, child: nn.Module) -> nn.Module:
    """A shallow copy in which one submodule is another; weights and all else are shared."""
    first, _, rest = path.partition(".")
    if rest:
        child = _with_child(module.get_submodule(first), rest, child)
    view = copy.copy(module)
    view._modules = {**module._modules, first: child}
    return view


@final
class SplitModel:
    """The parts of a PEFT model, run with adapter factors that are handed in by PEFT's names.

    The factors are not the model's own parameters: many clients' halves may be in the middle of a
    step at once, on one frozen base. Tied models hold the token matrix in both halves; it is
    frozen, so the halves stay alike.
    """

    def __init__(self, model: Any) -> None:
        self.causal: nn.Module = model.get_base_model()
        self.blocks_path, self.blocks = find_blocks(self.causal, "to be split")
        self.body_path = self.blocks_path.rpartition(".")[0]
        self._parameter_of = _parameter_names(model)
        self._block_of = {name: self._block(name) for name in self._parameter_of}

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the frozen base, and so of what crosses the cut before it is encoded."""
        return next(iter(self.causal.parameters())).dtype

    @property
    def device(self) -> torch.device:
        """Where both halves are computed; what crosses the cut is encoded on the processor."""
        return next(iter(self.causal.parameters())).device

    @property
    def split_points(self) -> range:
        """Every allowed number of blocks on the client: at least one on each side."""
        return range(1, len(self.blocks))

    def client_names(self, split_point: int) -> list[str]:
        """The adapter tensors of the client half."""
        self._check(split_point)
        return [name for name, block in self._block_of.items() if block < split_point]

    def server_names(self, split_point: int) -> list[str]:
        """The adapter tensors of the main server's half."""
        self._check(split_point)
        return [name for name, block in self._block_of.items() if block >= split_point]

    def block_of(self, name: str) -> int:
        """The block that an adapter tensor belongs to."""
        return self._block_of[name]

    @contextmanager
    def dropout(self) -> Iterator[None]:
        """LoRA's own dropout is on, as far as the adapter has any."""
        set_lora_dropout(self.causal, training=True)
        try:
            yield
        finally:
            set_lora_dropout(self.causal, training=False)

    def activations(
        self, factors: Mapping[str, Tensor], split_point: int, token_ids: Tensor, mask: Tensor
    ) -> Tensor:
        """Client half: embedding and the first blocks [row, token, hidden]."""
        self._check(split_point)
        tap = _Tap()
        blocks = nn.ModuleList([*self.blocks[:split_point], tap])
        self._run_body(blocks, range(split_point), factors, token_ids, mask)
        return tap.seen

    def hidden(
        self, factors: Mapping[str, Tensor], split_point: int, activations: Tensor, mask: Tensor
    ) -> Tensor:
        """Main server's half up to the final norm [row, token, hidden].

        The factors may include those of earlier blocks, which other clients' cuts put here.
        """
        self._check(split_point)
        source = _Source(activations)
        blocks = nn.ModuleList([source] * split_point + list(self.blocks[split_point:]))
        # The source answers in place of the first blocks, so the server needs no token.
        nothing = torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
        own = range(split_point, len(self.blocks))
        output: Tensor = self._run_body(blocks, own, factors, nothing, mask).last_hidden_state
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        """LM head on some tokens' final hidden states, fp32 [token, vocabulary]."""
        model = _with_child(self.causal, self.body_path, _FinishedBody(hidden[None]))
        nothing = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
        logits: Tensor = model(input_ids=nothing, use_cache=False).logits
        return logits[0].float()

    def _run_body(
        self,
        blocks: nn.ModuleList,
        own: range,
        factors: Mapping[str, Tensor],
        token_ids: Tensor,
        mask: Tensor,
    ) -> Any:
        body = self.causal.get_submodule(self.body_path)
        view = _with_child(body, self.blocks_path.rpartition(".")[2], blocks)
        prefix = f"{self.body_path}."
        named = {
            self._parameter_of[name].removeprefix(prefix): value
            for name, value in factors.items()
            if self._block_of[name] in own
        }
        inputs = {"input_ids": token_ids, "attention_mask": mask.long(), "use_cache": False}
        return functional_call(view, named, (), inputs, tie_weights=False)

    def _block(self, name: str) -> int:
        parameter, prefix = self._parameter_of[name], f"{self.blocks_path}."
        if not parameter.startswith(prefix):
            raise InputError(
                "adapter.target_modules",
                parameter.partition(".lora_")[0],
                "inside the blocks of a model that is split",
                "leave embeddings and LM head out, for both halves may hold them",
            )
        return int(parameter.removeprefix(prefix).partition(".")[0])

    def _check(self, split_point: int) -> None:
        if split_point not in self.split_points:
            raise InputError(
                "split_point",
                split_point,
                f"1 to {len(self.blocks) - 1} of {len(self.blocks)} blocks",
            )


def _parameter_names(model: Any) -> dict[str, str]:
    """Adapter tensor name -> parameter name in the causal language model."""
    marker = f".{model.active_adapter}."
    return {
        name.replace(marker, "."): name.removeprefix(_PEFT_PREFIX)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
