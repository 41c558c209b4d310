"""Masks and kept factors as bytes: what arrives is what was selected, at the predicted length."""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load
from torch import Tensor

from airtune.errors import InputError
from airtune.federated.checks.contracts import check_codec
from airtune.round_plan import ClientPlan
from airtune.update.codec import pack, shapes_of, unpack
from airtune.update.rank_sparse import (
    KeptCounts,
    RankSparseCodec,
    change_importance,
    largest_ranks,
    matrix_ranks,
    norm_importance,
    rank_payload,
)
from tests.update.adapters import MATRICES, random_factors

PLAN = ClientPlan(client=3, bandwidth_hz=1e6, tx_power_w=0.2, rank=4, sparsity=0.5)
START, CHANGE = random_factors(1), random_factors(2, scale=0.1)


def counts(*kept: int) -> KeptCounts:
    def planned(ranks: Sequence[int], plan: ClientPlan) -> Sequence[int]:
        return kept

    return planned


def masked(change: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """The slow plain twin: unsent ranks at zero."""
    sent = {}
    for name, tensor in change.items():
        mask = masks[name.partition(".lora_")[0]]
        sent[name] = tensor * (mask[:, None] if "lora_A" in name else mask)
    return sent


def contract_cases() -> Iterator[tuple[str, bool, str, tuple[int, ...], str]]:
    """Every format of numbers with every count of ranks; the other options take turns beside."""
    dtypes, counted = ("fp32", "fp16", "bf16", "int8"), ((3, 4, 2), (1, 2, 1), (0, 3, 0), (0, 0, 0))
    for (i, dtype), (j, kept) in product(enumerate(dtypes), enumerate(counted)):
        importance = ("change", "norm", "random")[(i + j) % 3]
        yield dtype, j % 2 == 1, importance, kept, ("largest", "drawn")[(i + j // 2) % 2]


@pytest.mark.parametrize(("dtype", "report", "importance", "kept", "choice"), [*contract_cases()])
def test_contract(
    importance: str, dtype: str, report: bool, kept: tuple[int, ...], choice: str
) -> None:
    kept_counts = counts(*kept)
    codec = RankSparseCodec(importance, dtype, report, kept=kept_counts, choice=choice).in_round(
        START
    )
    decoded = check_codec(
        codec,
        CHANGE,
        PLAN,
        # Random rounding draws anew, and the report tells the energies before the selection.
        idempotent=dtype != "int8" and not report,
    )
    for (matrix, (rank, _, _)), count in zip(MATRICES.items(), kept, strict=True):
        changed = decoded[f"{matrix}.lora_A.weight"].ne(0).any(1)
        assert int(changed.sum()) == min(count, rank)


@pytest.mark.parametrize("importance", ["change", "norm"])
def test_the_most_important_ranks_arrive(importance: str) -> None:
    codec = RankSparseCodec(importance, kept=counts(2, 1, 1)).in_round(START)
    now = {name: START[name] + tensor for name, tensor in CHANGE.items()}
    values = change_importance(START, CHANGE) if importance == "change" else norm_importance(now)
    expected = masked(CHANGE, largest_ranks(values, (2, 1, 1)))
    decoded = codec.decode(codec.encode(CHANGE, PLAN), shapes_of(CHANGE), PLAN)
    assert all(torch.equal(decoded[name], expected[name]) for name in CHANGE)


def test_everything_kept_is_everything() -> None:
    codec = RankSparseCodec().in_round(START)
    plan = dataclasses.replace(PLAN, sparsity=0.0)
    decoded = codec.decode(codec.encode(CHANGE, plan), shapes_of(CHANGE), plan)
    assert all(torch.equal(decoded[name], CHANGE[name]) for name in CHANGE)


def test_frame_by_hand() -> None:
    """Ranks 3, 4, 2 make nine mask bits, which are two bytes; the rest is one flat tensor."""
    codec = RankSparseCodec(kept=counts(1, 2, 1), report=True).in_round(START)
    frame = load(codec.encode(CHANGE, PLAN))
    assert {name: tuple(tensor.shape) for name, tensor in frame.items()} == {
        "mask": (2,),
        "update": ((7 + 5) + 2 * (5 + 9) + (12 + 4),),
        "energy": (9,),
    }
    assert matrix_ranks(shapes_of(CHANGE)) == [3, 4, 2]
    assert rank_payload(shapes_of(CHANGE)) == [12, 14, 16]
    mask = largest_ranks(change_importance(START, CHANGE), (1, 2, 1))["x"]
    row = CHANGE["x.lora_A.weight"][mask][0]
    assert torch.equal(frame["update"][:7], row)
    assert torch.equal(frame["update"][7:12], CHANGE["x.lora_B.weight"][:, mask][:, 0])


@given(st.floats(0.0, 0.99), st.integers(1, 9), st.integers(1, 9))
def test_bits_follow_from_the_plan_alone(sparsity: float, width: int, rank: int) -> None:
    matrices = {"m": (rank, width, 3), "n": (rank + 1, 2, width)}
    start, change = random_factors(4, matrices), random_factors(5, matrices)
    plan = dataclasses.replace(PLAN, sparsity=sparsity)
    codec = RankSparseCodec(report=True).in_round(start)
    payload = codec.encode(change, plan)
    assert 8 * len(payload) == codec.payload_bits(shapes_of(change), plan)


def test_reported_energies_are_shares_before_selection() -> None:
    codec = RankSparseCodec(report=True).in_round(START)
    payload = codec.encode(CHANGE, PLAN)
    shares = codec.reported_energies(payload, shapes_of(CHANGE))
    energy = {m: v.square() for m, v in change_importance(START, CHANGE).items()}
    total = sum(float(values.sum()) for values in energy.values())
    for matrix, values in energy.items():
        assert shares[matrix].tolist() == pytest.approx((values / total).tolist(), rel=2e-3)
    assert sum(float(values.sum()) for values in shares.values()) == pytest.approx(1.0)
    for scale in (1e-8, 1e8):
        scaled = {name: tensor * scale for name, tensor in CHANGE.items()}
        nothing = {name: torch.zeros_like(tensor) for name, tensor in START.items()}
        first = codec.in_round(nothing)
        one = codec.reported_energies(first.encode(scaled, PLAN), shapes_of(CHANGE))
        two = codec.reported_energies(first.encode(CHANGE, PLAN), shapes_of(CHANGE))
        # 1e-12 squared is near the end of fp32.
        assert all(torch.allclose(one[m], two[m], rtol=2e-3, atol=1e-6) for m in one)
    unchanged = {name: torch.zeros_like(tensor) for name, tensor in CHANGE.items()}
    empty = codec.reported_energies(codec.encode(unchanged, PLAN), shapes_of(CHANGE))
    assert all(not values.any() for values in empty.values())
    silent = RankSparseCodec().in_round(START)
    with pytest.raises(InputError, match="encoded with report=True"):
        silent.reported_energies(silent.encode(CHANGE, PLAN), shapes_of(CHANGE))


def test_ranks_that_did_not_change_go_last() -> None:
    change = {name: torch.zeros_like(tensor) for name, tensor in CHANGE.items()}
    weakest = int(norm_importance(START)["x"].argmin())
    change["x.lora_A.weight"][weakest] = 1e-9
    codec = RankSparseCodec("norm", kept=counts(1, 1, 1)).in_round(START)
    payload = codec.encode(change, PLAN)
    decoded = codec.decode(payload, shapes_of(change), PLAN)
    assert torch.equal(decoded["x.lora_A.weight"], change["x.lora_A.weight"])
    assert codec.encode(decoded, PLAN) == payload


def test_random_ranks_depend_on_seed_client_and_update() -> None:
    matrices = {"m": (64, 2, 2)}
    change = random_factors(6, matrices)

    def mask(change: dict[str, Tensor], seed: int = 0, client: int = 3) -> bytes:
        plan = dataclasses.replace(PLAN, client=client)
        frame = unpack(RankSparseCodec("random", seed=seed).encode(change, plan))
        return frame["mask"].numpy().tobytes()

    other = {name: 2 * tensor for name, tensor in change.items()}
    assert mask(change) == mask(change)
    assert len({mask(change), mask(other), mask(change, seed=1), mask(change, client=4)}) == 4


def test_drawn_ranks_follow_their_energy() -> None:
    """One of two ranks is kept; drawn, each comes as often as its share of the energy."""
    start = {"m.lora_A.weight": torch.eye(2, 3), "m.lora_B.weight": torch.zeros(4, 2)}
    columns = torch.tensor([[2.0, 1.0], [0, 0], [0, 0], [0, 0]])  # energies 4 and 1
    codec = RankSparseCodec("change", report=True, choice="drawn").in_round(start)
    firsts, change = 0, start
    for draw in range(400):
        # A client's draws come from its own update: another size, another draw.
        change = {
            "m.lora_A.weight": torch.zeros(2, 3),
            "m.lora_B.weight": (1 + draw / 400) * columns,
        }
        payload = codec.encode(change, PLAN)
        decoded = codec.decode(payload, shapes_of(change), PLAN)
        sent = decoded["m.lora_B.weight"].ne(0).any(0).tolist()
        assert sum(sent) == 1
        firsts += sent[0]
        assert codec.encode(change, PLAN) == payload
        # What is reported is the energy, whatever was drawn.
        energy = codec.reported_energies(payload, shapes_of(change))["m"]
        assert torch.allclose(energy, torch.tensor([0.8, 0.2], dtype=torch.float64), atol=1e-3)
    # 0.8 of 400 with a standard deviation of 8.
    assert abs(firsts - 320) < 32
    largest = RankSparseCodec("change").in_round(start)
    kept = largest.decode(largest.encode(change, PLAN), shapes_of(change), PLAN)
    assert kept["m.lora_B.weight"].ne(0).any(0).tolist() == [True, False]


def test_refusals() -> None:
    with pytest.raises(InputError, match="largest, drawn"):
        RankSparseCodec(choice="best")
    with pytest.raises(InputError, match=r"codec\.importance is size, but it must be one of"):
        RankSparseCodec("size")
    with pytest.raises(InputError, match=r"codec\.dtype is int3"):
        RankSparseCodec(dtype="int3")
    with pytest.raises(ValueError, match="bind the codec first"):
        RankSparseCodec().encode(CHANGE, PLAN)
    codec, shapes = RankSparseCodec().in_round(START), shapes_of(CHANGE)
    frame = unpack(codec.encode(CHANGE, PLAN))
    with pytest.raises(InputError, match="as many ranks as planned"):
        codec.decode(pack(frame), shapes, dataclasses.replace(PLAN, sparsity=0.9))
    with pytest.raises(InputError, match="numbers"):
        codec.decode(pack({**frame, "update": frame["update"][:-1].clone()}), shapes, PLAN)
    with pytest.raises(InputError, match="mask of 8 bits"):
        codec.decode(pack({**frame, "mask": frame["mask"][:1].clone()}), shapes, PLAN)
