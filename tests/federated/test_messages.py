"""Messages between processes arrive as they were sent."""

from multiprocessing import Pipe
from typing import Any

import pytest
import torch

from airtune.federated.backends.workers import receive, send


def sent(message: Any) -> Any:
    here, there = Pipe()
    send(here, message)
    return receive(there)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0, 4)])
def test_tensors_keep_bits_shape_and_dtype(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    value = (1000 * torch.randn(shape)).to(dtype)
    turned = value.mT if value.dim() > 1 else value.clone()
    found = sent({"a": [value, "text"], "b": turned})
    assert found["a"][1] == "text"
    assert found["a"][0].dtype == dtype
    assert found["a"][0].shape == value.shape
    assert torch.equal(found["a"][0], value)
    assert torch.equal(found["b"], turned)
    found["a"][0].zero_()  # a copy, that may be written to
    assert torch.equal(found["b"], turned)


def test_the_end_of_the_other_side_is_an_error() -> None:
    here, there = Pipe()
    here.close()
    with pytest.raises(EOFError):
        receive(there)
