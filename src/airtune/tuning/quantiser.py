"""bitsandbytes, the one place that imports it: matrices to nf4 or int8, and back.

What is quantised is (out, in), row by row. bitsandbytes quantises on the processor, so that a
server and its clients hold the same bits whatever they train on. Departures from its own modules:
the mean of nf4's block magnitudes is taken in fp64, since torch's depends on the number of threads;
a row of zeros is int8 zeros, where a division by its magnitude makes no numbers; and a matrix of
nf4 is read as one row, since bitsandbytes 0.50 misreads rows whose length is no multiple of 64 on
processors.
"""

import logging
import sys
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor

from airtune.workload.quantised import BLOCK, INT8, NF4, SCALES_PER_BLOCK

Parts: TypeAlias = dict[str, Tensor]
"""Tensors of one quantised matrix by name: `weight`, and what its numbers are scaled by."""
HIGHEST = 127.0
_INT8_LIMIT = torch.finfo(torch.float16).max
_KERNELS = "kernels"


def _import_quietly() -> None:
    """On some processors bitsandbytes asks the hub for a kernel, if `kernels` is installed, and
    warns where it is not; that kernel is for inference, and nothing is to be asked unbidden."""
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level, there = log.level, _KERNELS in sys.modules
    kept = sys.modules.get(_KERNELS)
    log.setLevel(logging.ERROR)
    sys.modules[_KERNELS] = None  # type: ignore[assignment]
    try:
        import bitsandbytes  # noqa: F401
    finally:
        log.setLevel(level)
        del sys.modules[_KERNELS]
        if there:
            sys.modules[_KERNELS] = kept  # type: ignore[assignment]


_import_quietly()


@cache
def scale_table() -> Tensor:
    """The values that 8-bit scales stand for, signed and denser near zero [256], fp32."""
    from bitsandbytes.functional import create_dynamic_map

    table: Tensor = create_dynamic_map()
    return table.to(torch.float32)


def quantised(weight: Tensor, dtype: str) -> Parts:
    """The parts of a matrix (out, in) on the processor, in fp32, bf16 or fp16."""
    return (_int8 if dtype == INT8 else _nf4)(weight.contiguous())


def _nf4(weight: Tensor) -> Parts:
    codes, highest = torch.ops.bitsandbytes.quantize_4bit.default(weight, BLOCK, NF4, torch.uint8)
    mean = torch.tensor([float(highest.numpy().mean(dtype="float64"))], dtype=torch.float32)
    scales, scale_of_scales = torch.ops.bitsandbytes.quantize_blockwise.default(
        highest - mean, scale_table(), SCALES_PER_BLOCK
    )
    return {
        "weight": codes.reshape(-1),
        "scales": scales,
        "scale_of_scales": scale_of_scales,
        "mean_scale": mean,
    }


def _int8(weight: Tensor) -> Parts:
    # As bitsandbytes does it: the matrix is rounded to fp16 first.
    rows = weight.clamp(-_INT8_LIMIT, _INT8_LIMIT).to(torch.float16)
    codes, scales, _ = torch.ops.bitsandbytes.int8_vectorwise_quant.default(rows)
    return {"weight": torch.where(scales[:, None] > 0, codes, 0).to(torch.int8), "scales": scales}


def from_nf4(parts: Parts, table: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The matrix (out, in) that nf4 parts stand for."""
    scales = torch.ops.bitsandbytes.dequantize_blockwise.default(
        parts["scales"], parts["scale_of_scales"], table, SCALES_PER_BLOCK, torch.float32
    )
    numbers = shape[0] * shape[1]
    # As one row, which ends with a whole byte: bitsandbytes' kernel for processors begins a new
    # block with every row, though blocks run through the matrix.
    line: Tensor = torch.ops.bitsandbytes.dequantize_4bit.default(
        parts["weight"],
        scales.add_(parts["mean_scale"]),
        BLOCK,
        NF4,
        (1, numbers + numbers % 2),
        dtype,
    )
    return line[0, :numbers].view(shape)


def from_int8(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """`code scale / 127`, rounded to `dtype` once."""
    return codes.to(dtype).mul_(scales[:, None] * (1.0 / HIGHEST))
