"""Which tensors a part must answer with: all of an adapter, or those of the half that it holds."""

import pytest
import torch

from airtune.federated.checks.guard import check_tensors

SHAPES = {"a": (2, 3), "b": (3, 2)}


def test_a_half_answers_with_its_own_tensors() -> None:
    half = {"a": torch.zeros(2, 3)}
    check_tensors(half, SHAPES, part=True)
    check_tensors({**half, "b": torch.zeros(3, 2)}, SHAPES)
    with pytest.raises(ValueError, match="names of the adapter"):
        check_tensors(half, SHAPES)
    with pytest.raises(ValueError, match="names of the adapter"):
        check_tensors({**half, "c": torch.zeros(1)}, SHAPES, part=True)
    with pytest.raises(ValueError, match="has the shape"):
        check_tensors({"a": torch.zeros(3, 3)}, SHAPES, part=True)
