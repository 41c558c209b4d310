"""Which of torch's attention kernels trains short rows faster on a processor."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PLAIN_UP_TO_TOKENS = {torch.float32: 32, torch.bfloat16: 128, torch.float16: 128}
"""Up to these lengths products and a softmax over all scores (in fp32) beat the tiled kernel,
whose backward pays for its tiles, in bf16 most: 1.2 to 4 times forward and backward together
(`benchmarks/attention_kernels.py`). Scores of so few tokens need no memory to speak of."""


@contextmanager
def training_attention(device: torch.device, dtype: torch.dtype, tokens: int) -> Iterator[None]:
    """Attention of rows of so many tokens as it trains fastest; the same numbers up to rounding.

    Softmax(Q K^T / sqrt(d)) V by either kernel (Dao et al., arXiv 2205.14135, algorithm 1, has the
    tiled one). Without gradients, and on a GPU, torch chooses.
    """
    short = tokens <= PLAIN_UP_TO_TOKENS.get(dtype, 0)
    if not (short and device.type == "cpu" and torch.is_grad_enabled()):
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield
