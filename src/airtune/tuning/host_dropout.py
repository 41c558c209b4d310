"""LoRA's dropout with masks drawn by the processor, so that a GPU drops the same entries."""

from typing import Any, final

import torch
from torch import Tensor, nn


@final
class HostDropout(nn.Dropout):
    """Entries are zeroed with probability p, the others divided by 1 - p, while training.

    The mask comes from torch's generator of the processor, which whoever trains has seeded; on the
    processor these are the bits of `nn.Dropout`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The input with entries dropped, in any shape."""
        if not self.training or self.p == 0.0:
            return input
        kept = torch.empty(input.shape, dtype=input.dtype).bernoulli_(1.0 - self.p)
        return input * kept.div_(1.0 - self.p).to(input.device)


def draw_dropout_on_host(model: Any) -> None:
    """Put it in the place of every LoRA dropout of a PEFT model."""
    for name, module in model.named_modules():
        if name.endswith(".lora_dropout"):
            for adapter, dropout in module.items():
                if isinstance(dropout, nn.Dropout):
                    module[adapter] = HostDropout(dropout.p)
