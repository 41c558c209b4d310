"""FLOPs and bytes kept of one training step, part by part.

Products are counted by torch's FlopCounterMode, what the backward pass keeps by hooks on the
tensors that autograd saves. Each is attributed to a part of the model, the embedding, a block or
the head, by marks between the parts: in the forward pass a part begins where its mark is passed, in
the backward pass one ends there.
"""

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from airtune.workload.counting.module import build, find_blocks, first_sentence
from airtune.workload.counting.operations import countable
from airtune.workload.counting.sample import Adapted, NotCountable, Sample, Trainee

EMBEDDING = -1
"""The part before the first block."""


@dataclass
class _Meter:
    """Adds what is computed and kept to the part that runs at the moment."""

    counter: FlopCounterMode
    parts: int
    part: int = EMBEDDING
    seen: int = 0
    flops: list[int] = field(default_factory=list)
    own: set[int] = field(default_factory=set)
    kept: dict[int, tuple[int, Tensor]] = field(default_factory=dict)

    def start(self) -> None:
        """Begin a pass with every count at zero."""
        self.flops = [0] * self.parts

    def enter(self, part: int) -> None:
        """What has been counted since the last mark belongs to the part that ran until now."""
        total = int(self.counter.get_total_flops())
        self.flops[self.part + 1] += total - self.seen
        self.seen, self.part = total, part

    def pack(self, tensor: Tensor) -> Tensor:
        """Called for every tensor that autograd keeps; weights are not counted here."""
        storage = tensor.untyped_storage()._cdata
        if storage not in self.own:
            self.kept.setdefault(storage, (self.part, tensor))
        return tensor

    def stored_bytes(self) -> tuple[int, ...]:
        """Bytes of distinct storages kept [part]."""
        sums = [0] * self.parts
        for part, tensor in self.kept.values():
            sums[part + 1] += tensor.untyped_storage().nbytes()
        return tuple(sums)


class _Mark(torch.autograd.Function):
    """Passes hidden states on; forward, the part above begins here, backward, the one below."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, meter: _Meter, part: int) -> Tensor:
        ctx.meter, ctx.below = meter, part - 1
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        ctx.meter.enter(ctx.below)
        return upstream[0], None, None


@final
class Counter:
    """A model without numbers, and what is trained of it, ready to be counted at any shape."""

    def __init__(self, config: Mapping[str, Any], trainee: Trainee) -> None:
        """Raises NotCountable."""
        self._model = build(config, trainee.dtype, trainee.attention)
        _, self._blocks = find_blocks(self._model)
        self._wrapped, self._layers = _trained(self._model, trainee)

    def count(self, rows: int, tokens: int) -> Sample:
        """One forward and one backward pass of the whole model. Raises NotCountable."""
        with FlopCounterMode(display=False) as counter, ExitStack() as hooks:
            meter = _Meter(counter, len(self._blocks) + 2)
            tensors = (*self._model.parameters(), *self._model.buffers())
            meter.own = {tensor.untyped_storage()._cdata for tensor in tensors}
            for part, block in enumerate(self._blocks):
                hook = block.register_forward_pre_hook(_marked(meter, part), with_kwargs=True)
                hooks.callback(hook.remove)
            last = self._blocks[-1].register_forward_hook(_left(meter, len(self._blocks)))
            hooks.callback(last.remove)
            seen: dict[str, Adapted] = {}
            for path, layer in self._layers.items():
                hooks.callback(layer.register_forward_pre_hook(_noted(seen, path, meter)).remove)
            hooks.enter_context(countable())
            try:
                forward, backward = _passes(self._wrapped, meter, rows, tokens)
            except Exception as error:  # a model's own code may raise anything
                raise NotCountable(first_sentence(error)) from error
        return Sample(forward, backward, meter.stored_bytes(), seen)


def _passes(
    model: Any, meter: _Meter, rows: int, tokens: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    ids = torch.zeros((rows, tokens), dtype=torch.long, device="meta")
    meter.start()
    with torch.autograd.graph.saved_tensors_hooks(meter.pack, lambda tensor: tensor):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    meter.enter(meter.parts - 2)  # the backward pass begins at the head
    forward = tuple(meter.flops)
    meter.start()
    logits.backward(torch.empty_like(logits))
    meter.enter(EMBEDDING)
    return forward, tuple(meter.flops)


def _marked(meter: _Meter, part: int) -> Callable[..., Any]:
    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        meter.enter(part)
        if args and isinstance(args[0], Tensor):
            return (_Mark.apply(args[0], meter, part), *args[1:]), kwargs  # type: ignore[no-untyped-call]
        hidden = _Mark.apply(kwargs["hidden_states"], meter, part)  # type: ignore[no-untyped-call]
        return args, {**kwargs, "hidden_states": hidden}

    return begin


def _left(meter: _Meter, part: int) -> Callable[..., Any]:
    """What follows the last block, its norm among it, belongs to the head."""

    def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        meter.enter(part)
        if isinstance(output, Tensor):
            return _Mark.apply(output, meter, part)  # type: ignore[no-untyped-call]
        return (_Mark.apply(output[0], meter, part), *output[1:])  # type: ignore[no-untyped-call]

    return end


def _noted(seen: dict[str, Adapted], path: str, meter: _Meter) -> Callable[..., None]:
    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        before = seen.get(path, Adapted(0, False, 0))
        rows, needs = x.numel() // x.shape[-1], x.requires_grad
        seen[path] = Adapted(before.rows + rows, before.needs or needs, meter.part + 1)

    return note


def _trained(model: Any, trainee: Trainee) -> tuple[Any, dict[str, nn.Module]]:
    """The model with what is trained, and the layers that carry an adapter."""
    from peft import LoraConfig, TaskType, get_peft_model

    if trainee.whole:
        return model.requires_grad_(True), {}
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lora = LoraConfig(r=1, target_modules=list(trainee.paths), task_type=TaskType.CAUSAL_LM)
        wrapped = get_peft_model(model, lora)
    for name, parameter in wrapped.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(torch.float32)
            parameter.requires_grad_(not (trainee.frozen_a and ".lora_A." in name))
    return wrapped.eval(), {path: model.get_submodule(path) for path in trainee.paths}
