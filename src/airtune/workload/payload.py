"""Bits of what travels, counted before any tensor exists.

A message is a safetensors frame: eight bytes of header length, a JSON header padded with spaces to
a multiple of eight bytes, then the data of all tensors without gaps (safetensors 0.8, README,
"Format"; the library orders tensors by falling alignment and then by name).
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod

from airtune.errors import InputError
from airtune.workload.adapter_shape import (
    AdapterShape,
    Trained,
    adapter_parameters,
    adapter_tensors,
)
from airtune.workload.architecture import Decoder, closed_form, pruned

# The library's own order of the data: a lower entry here comes first in the file. The order
# matters for the length of a frame, because offsets are written in decimal digits.
_DTYPE_BYTES = {
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
    "F32": 4,
    "U32": 4,
    "I32": 4,
    "BF16": 2,
    "F16": 2,
    "U16": 2,
    "I16": 2,
    "F8_E8M0": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_DTYPE_ORDER = {name: place for place, name in enumerate(_DTYPE_BYTES)}

WIRE_DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
"""airtune's names of floating point types, and safetensors' own."""

Frame = Mapping[str, tuple[str, Sequence[int]]]
"""Tensor name -> (safetensors dtype, shape)."""


def dtype_bits(dtype: str, field: str = "dtype") -> int:
    """Bits of one number of an airtune dtype (fp32, fp16, bf16)."""
    if dtype not in WIRE_DTYPES:
        raise InputError(field, dtype, f"one of {', '.join(WIRE_DTYPES)}")
    return 8 * _DTYPE_BYTES[WIRE_DTYPES[dtype]]


def frame_bytes(tensors: Frame, metadata: Mapping[str, str] | None = None) -> int:
    """Length of `safetensors.torch.save(tensors, metadata)` [byte], from names, dtypes and shapes.

    bytes = 8 + 8 ceil(len(JSON header) / 8) + sum over tensors of (elements x bytes per element).
    Raises InputError for a dtype that safetensors does not name so.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in sorted(tensors.items(), key=_file_order):
        start, end = end, end + prod(shape) * _DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + 8 * -(-len(text) // 8) + end


def data_bytes(tensors: Frame) -> int:
    """Length of such a frame without its header [byte]."""
    return sum(prod(shape) * _DTYPE_BYTES[dtype] for dtype, shape in tensors.values())


def _file_order(entry: tuple[str, tuple[str, Sequence[int]]]) -> tuple[int, bytes]:
    name, (dtype, _) = entry
    if dtype not in _DTYPE_ORDER:
        raise InputError(f"dtype of {name}", dtype, f"one of {', '.join(_DTYPE_BYTES)}")
    return _DTYPE_ORDER[dtype], name.encode()


@lru_cache(maxsize=1024)
def flat_update_bits(coordinates: int, dtype: str = "fp32") -> int:
    """Bits of a dense update: ONE flat tensor named "update" in a frame.

    Names and shapes are agreed before round 1, so they do not travel.
    """
    dtype_bits(dtype)
    return 8 * frame_bytes({"update": (WIRE_DTYPES[dtype], [coordinates])})


def update_bits(
    architecture: Decoder,
    adapter: Trained,
    dtype: str = "fp32",
    pruning_rate: float = 0.0,
    blocks: range | None = None,
) -> int:
    """Bits of a client's dense update: the kept coordinates of its adapter, one flat tensor.

    `blocks` limits it to some blocks (a split model's client half). The server derives the pruning
    mask from the rate, so no mask travels.
    """
    adapter.adaptation(architecture)  # refuses a rank above the width
    kept = architecture
    if pruning_rate:
        kept = pruned(closed_form(architecture, "pruned"), pruning_rate)
    return flat_update_bits(adapter_parameters(kept, adapter, blocks), dtype)


def saved_adapter_bytes(architecture: Decoder, adapter: AdapterShape) -> int:
    """Length of the `adapter_model.safetensors` of a saved fp32 PEFT adapter [byte]."""
    tensors = adapter_tensors(architecture, adapter)
    return frame_bytes({name: ("F32", shape) for name, shape in tensors.items()}, {"format": "pt"})


def rank_bits(architecture: Decoder, adapter: AdapterShape, dtype: str = "fp32") -> dict[str, int]:
    """Bits of ONE rank of each adapted matrix: a column of B and a row of A, in + out numbers.

    Keys are module names as PEFT writes them; the sum is the payload of a rank that is kept
    everywhere. Left out: masks (rank bits per matrix) and the frame, which the codec counts.
    """
    tensors = adapter_tensors(architecture, adapter)
    bits: dict[str, int] = {}
    for name, (rows, columns) in tensors.items():
        matrix = name.rsplit(".", 2)[0]
        rank = rows if name.endswith(".lora_A.weight") else columns
        per_rank = rows * columns // rank * dtype_bits(dtype)
        bits[matrix] = bits.get(matrix, 0) + per_rank
    return bits
