"""Attention forward and backward: torch's tiled kernel against plain products, by row length.

    OMP_NUM_THREADS=1 python benchmarks/attention_kernels.py

`ratio` is the tiled kernel's processor time over the plain one's; `airtune.tuning.label_loss`
takes the plain one for short rows (in bf16 wherever it stays above 1). Shapes are [row, head,
token, width].
"""

from typing import Any

import torch
from reporting import report, seconds
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

SHAPES = (
    (64, 8, 16, 16),
    (64, 4, 32, 64),
    (16, 12, 32, 64),
    (32, 4, 64, 64),
    (4, 12, 128, 64),
    (4, 12, 256, 64),
    (1, 12, 1024, 64),
)


def compare(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Any]:
    """Both kernels on the same random rows."""
    torch.manual_seed(0)
    inputs = query, key, value = [
        torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)
    ]
    upstream = torch.randn(shape, dtype=dtype)

    def step(kernel: SDPBackend) -> None:
        with sdpa_kernel(kernel):
            answer = scaled_dot_product_attention(query, key, value, is_causal=True)
        torch.autograd.grad(answer, inputs, upstream)

    tiled, _ = seconds(lambda: step(SDPBackend.FLASH_ATTENTION), repeat=5)
    plain, _ = seconds(lambda: step(SDPBackend.MATH), repeat=5)
    return {
        "shape": list(shape),
        "dtype": str(dtype).removeprefix("torch."),
        "tiled_ms": 1e3 * tiled,
        "plain_ms": 1e3 * plain,
        "ratio": tiled / plain,
    }


def main() -> None:
    torch.set_num_threads(1)
    dtypes = (torch.float32, torch.bfloat16)
    report("attention_kernels", [compare(shape, dtype) for dtype in dtypes for shape in SHAPES])


if __name__ == "__main__":
    main()
