"""The blocks of a causal language model, and their recomputation in the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from airtune.errors import InputError
from airtune.tuning.label_loss import training_attention
from airtune.workload.counting import module
from airtune.workload.counting.sample import NotCountable


def find_blocks(causal: nn.Module, purpose: str) -> tuple[str, list[nn.Module]]:
    """The outermost list of as many modules as the config has hidden layers, and its path.

    Raises InputError, which names the purpose, for a model without one.
    """
    try:
        path, blocks = module.find_blocks(causal)
    except NotCountable as error:
        count = causal.config.num_hidden_layers  # type: ignore[union-attr]
        allowed = f"one with its {count} blocks in one list, {purpose}"
        raise InputError("model", type(causal).__name__, allowed) from error
    return path, list(blocks)


@contextmanager
def checkpointed_blocks(model: Any, wanted: bool) -> Iterator[None]:
    """Within it each block keeps its input alone and runs forward again in its backward pass.

    The gradients are the same up to rounding: the second pass runs the same code on the same
    numbers, dropout included, whose draws are repeated. Source: Chen et al., arXiv 1604.06174, with
    one segment a block. Raises InputError for a model whose blocks are not found.
    """
    if not wanted:
        yield
        return
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    _, blocks = find_blocks(causal, "to be checkpointed")
    for block in blocks:
        # An instance's own `forward` goes before that of its class.
        block.forward = _recomputed(block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def once(*arguments: Any, **named: Any) -> Any:
        given = (value for value in (*arguments, *named.values()) if isinstance(value, Tensor))
        hidden = next(value for value in given if value.dim() == 3)
        # Chosen in both passes, since the second one runs outside of what surrounded the first.
        with training_attention(hidden.device, hidden.dtype, hidden.shape[1]):
            return forward(*arguments, **named)

    def checkpointed(*arguments: Any, **named: Any) -> Any:
        # To the end of the block, since a whole forward pass is what is charged.
        with set_checkpoint_early_stop(False):
            return checkpoint(once, *arguments, use_reentrant=False, **named)

    return checkpointed
