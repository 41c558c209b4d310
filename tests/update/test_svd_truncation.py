"""Truncated factors: optimal in each factor, and whole where truncation saves nothing."""

import dataclasses
from itertools import combinations

import pytest
import torch

from airtune.errors import InputError
from airtune.federated.checks.contracts import check_codec
from airtune.round_plan import ClientPlan
from airtune.update.codec import pack, shapes_of, unpack
from airtune.update.svd import SvdCodec
from tests.update.adapters import random_factors

PLAN = ClientPlan(client=3, bandwidth_hz=1e6, tx_power_w=0.2, rank=6)
MATRICES = {"x": (6, 17, 15), "y": (4, 15, 29), "z": (1, 12, 4)}
CHANGE = random_factors(1, MATRICES)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.9])
def test_contract(dtype: str, sparsity: float) -> None:
    plan = dataclasses.replace(PLAN, sparsity=sparsity)
    check_codec(SvdCodec(dtype), CHANGE, plan, idempotent=False)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_error_is_that_of_the_singular_values_left_out(kept: int) -> None:
    codec = SvdCodec(kept=lambda ranks, plan: [min(kept, rank) for rank in ranks])
    decoded = codec.decode(codec.encode(CHANGE, PLAN), shapes_of(CHANGE), PLAN)
    for name, tensor in CHANGE.items():
        whole = kept * sum(tensor.shape) >= tensor.numel()
        left_out = torch.linalg.svdvals(tensor)[kept:].norm() if not whole else torch.zeros(())
        torch.testing.assert_close((decoded[name] - tensor).norm(), left_out, rtol=1e-4, atol=1e-5)


def test_no_choice_of_ranks_is_closer() -> None:
    codec = SvdCodec(kept=lambda ranks, plan: [2, 1, 1])
    decoded = codec.decode(codec.encode(CHANGE, PLAN), shapes_of(CHANGE), PLAN)
    change = CHANGE["x.lora_B.weight"]
    error = (decoded["x.lora_B.weight"] - change).norm()
    for ranks in combinations(range(6), 2):
        left = [rank for rank in range(6) if rank not in ranks]
        assert error <= change[:, left].norm()


def test_everything_kept_is_sent_whole() -> None:
    codec = SvdCodec()
    decoded = codec.decode(codec.encode(CHANGE, PLAN), shapes_of(CHANGE), PLAN)
    assert all(torch.equal(decoded[name], CHANGE[name]) for name in CHANGE)


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"codec\.dtype"):
        SvdCodec("fp8")
    frame = unpack(SvdCodec().encode(CHANGE, PLAN))
    with pytest.raises(InputError, match="as planned"):
        SvdCodec().decode(pack(frame), shapes_of(CHANGE), dataclasses.replace(PLAN, sparsity=0.5))
