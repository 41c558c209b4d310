"""Predicted frame lengths are the lengths of the frames that safetensors makes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from airtune.errors import InputError
from airtune.workload.payload import dtype_bits, flat_update_bits, frame_bytes

DTYPES = {
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F32": torch.float32,
    "U32": torch.uint32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

shapes = st.lists(st.integers(0, 12), max_size=3)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda name: name != "__metadata__"
)
frames = st.dictionaries(names, st.tuples(st.sampled_from(sorted(DTYPES)), shapes), max_size=6)


def _real_length(frame: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None) -> int:
    tensors = {name: torch.zeros(shape).to(DTYPES[dtype]) for name, (dtype, shape) in frame.items()}
    return len(save(tensors, metadata=metadata))


@given(frame=frames, metadata=st.none() | st.dictionaries(names, names, min_size=1, max_size=2))
def test_equals_the_library(
    frame: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None
) -> None:
    assert frame_bytes(frame, metadata) == _real_length(frame, metadata)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("coordinates", [0, 1, 9, 24, 25, 2_499_999, 2_500_000])
def test_flat_update_equals_the_library(coordinates: int, dtype: str) -> None:
    real = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    encoded = save({"update": torch.zeros(coordinates, dtype=real)})
    assert flat_update_bits(coordinates, dtype) == 8 * len(encoded)


def test_unknown_dtypes_are_refused() -> None:
    with pytest.raises(InputError, match="dtype of x is F31"):
        frame_bytes({"x": ("F31", [3])})
    with pytest.raises(InputError, match="one of fp32, fp16, bf16"):
        flat_update_bits(3, "int8")
    with pytest.raises(InputError, match=r"codec\.dtype"):
        dtype_bits("float32", "codec.dtype")


def test_dtype_bits() -> None:
    assert [dtype_bits(name) for name in ("fp32", "fp16", "bf16")] == [32, 16, 16]
