"""Coefficients on seeded directions: theory of the estimators, division over blocks, bytes."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch

from airtune.errors import InputError
from airtune.federated.checks.contracts import check_codec
from airtune.round_plan import ClientPlan
from airtune.tuning.directions import DRAW_FLOPS
from airtune.update import seeded
from airtune.update.codec import coordinates, flatten, pack, shapes_of, unpack
from airtune.update.seeded import SeededCodec, hadamard
from tests.update.adapters import random_factors

PLAN = ClientPlan(client=3, bandwidth_hz=1e6, tx_power_w=0.2, rank=2)
CHANGE = random_factors(1)
COUNT = coordinates(shapes_of(CHANGE))
START = {"a": torch.ones(3)}
SIZE = 40
VECTOR = {"x": torch.from_numpy(np.random.default_rng(5).normal(size=SIZE)).float()}


def through(codec: SeededCodec, change: dict[str, torch.Tensor], seed: int) -> np.ndarray:
    bound = replace(codec, seed=seed).in_round(START)
    payload = bound.encode(change, PLAN)
    return flatten(bound.decode(payload, shapes_of(change), PLAN)).numpy().astype(float)


@pytest.mark.parametrize("distribution", ["gaussian", "orthonormal"])
@pytest.mark.parametrize("allocation", ["best", "norm", "uniform"])
@pytest.mark.parametrize(("directions", "blocks"), [(1, 1), (7, 3), (2, 8), (COUNT, 4), (10**6, 5)])
def test_contract(distribution: str, allocation: str, directions: int, blocks: int) -> None:
    codec = SeededCodec(directions, blocks, distribution, allocation)  # type: ignore[arg-type]
    check_codec(codec.in_round(START), CHANGE, PLAN, idempotent=False)
    nothing = {name: torch.zeros_like(value) for name, value in CHANGE.items()}
    decoded = check_codec(codec.in_round(START), nothing, PLAN, idempotent=False)
    assert not any(value.any() for value in decoded.values())


def test_orthonormal_directions_without_padding_give_the_projection() -> None:
    change = {"x": torch.from_numpy(np.random.default_rng(2).normal(size=64)).float()}
    codec = SeededCodec(9, 1, "orthonormal").in_round(START)
    once = codec.decode(codec.encode(change, PLAN), shapes_of(change), PLAN)
    twice = codec.decode(codec.encode(once, PLAN), shapes_of(change), PLAN)
    assert torch.allclose(twice["x"], once["x"], atol=1e-6)
    # Least squares on the nine directions, one unit vector after another sent through.
    units = [{"x": torch.eye(64)[place]} for place in range(64)]
    columns = [unpack(codec.encode(unit, PLAN))["update"].numpy() for unit in units]
    directions = np.stack(columns, axis=1).astype(float)
    nearest = directions.T @ np.linalg.lstsq(directions.T, change["x"].numpy(), rcond=None)[0]
    assert np.allclose(once["x"].numpy(), nearest, atol=1e-5)


@pytest.mark.parametrize("blocks", [1, 3])
def test_as_many_orthonormal_directions_as_numbers_lose_nothing(blocks: int) -> None:
    for directions in (COUNT, COUNT + 1, 10**7):
        codec = SeededCodec(directions, blocks).in_round(START)
        decoded = codec.decode(codec.encode(CHANGE, PLAN), shapes_of(CHANGE), PLAN)
        assert all(torch.equal(decoded[name], CHANGE[name]) for name in CHANGE)


@pytest.mark.parametrize(
    ("distribution", "directions", "error"),
    [
        ("gaussian", 10, (SIZE + 1) / 10),
        ("gaussian", 60, (SIZE + 1) / SIZE),
        ("orthonormal", 10, (64 / 10 - 1) * (SIZE - 1) / 63),
        ("orthonormal", 39, (64 / 39 - 1) * (SIZE - 1) / 63),
    ],
)
def test_without_shrinking_the_estimate_is_unbiased_with_this_error(
    distribution: str, directions: int, error: float
) -> None:
    codec = SeededCodec(directions, 1, distribution, shrink=False)  # type: ignore[arg-type]
    exact = VECTOR["x"].numpy().astype(float)
    draws = np.array([through(codec, VECTOR, seed) for seed in range(1500)])
    power = float(np.square(exact).sum())
    spread = np.sqrt(error * power / len(draws))
    # The distance of the mean from x has this size itself; four times it is never reached.
    assert np.linalg.norm(draws.mean(0) - exact) < 4 * spread
    measured = np.square(draws - exact).sum(1) / power
    assert measured.mean() == pytest.approx(error, rel=0.06)
    assert codec.expected_error([power**0.5], SIZE) == pytest.approx(error)


@pytest.mark.parametrize("distribution", ["gaussian", "orthonormal"])
@pytest.mark.parametrize("directions", [4, 25])
def test_shrunk_it_has_the_least_expected_error(distribution: str, directions: int) -> None:
    codec = SeededCodec(directions, 1, distribution)  # type: ignore[arg-type]
    exact = VECTOR["x"].numpy().astype(float)
    power = float(np.square(exact).sum())
    draws = np.array([through(codec, VECTOR, seed) for seed in range(1500)])
    error = float(np.square(draws - exact).sum(1).mean()) / power
    said = codec.expected_error([power**0.5], SIZE)
    assert error == pytest.approx(said, rel=0.03)
    for factor in (0.8, 1.25):
        assert np.square(factor * draws - exact).sum(1).mean() / power > error


@pytest.mark.parametrize("distribution", ["gaussian", "orthonormal"])
@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize("norms", [(1.0, 1.0, 1.0), (5.0, 0.2, 1.0), (0.0, 3.0, 1.0)])
def test_best_is_the_best_of_all_divisions(
    distribution: str, shrink: bool, norms: Sequence[float]
) -> None:
    sizes, total = [6, 5, 5], 9
    codec = SeededCodec(total, 3, distribution, shrink=shrink)  # type: ignore[arg-type]

    def lost(counts: Sequence[int]) -> float:
        triples = zip(norms, sizes, counts, strict=True)
        return sum(float(n * n * codec._error(size, np.array(count))) for n, size, count in triples)

    choices = itertools.product(*(range(1, size + 1) for size in sizes))
    least = min(lost(counts) for counts in choices if sum(counts) == total)
    found = codec._counts(np.array(norms, dtype=np.float32), sizes)
    assert sum(found) == total
    assert lost(found) == pytest.approx(least, rel=1e-6, abs=1e-12)


def test_division_in_proportion() -> None:
    sizes, norms = [10_000] * 3, np.array([1.0, 2.0, 5.0], dtype=np.float32)
    unshrunk = SeededCodec(800, 3, "gaussian", shrink=False)
    assert unshrunk._counts(norms, sizes) == [100, 200, 500], "sqrt(d) n"
    assert replace(unshrunk, allocation="norm")._counts(norms, sizes) == [100, 200, 500]
    uneven = [40_000, 10_000, 10_000]
    alike = np.ones(3, dtype=np.float32)
    assert unshrunk._counts(alike, uneven) == pytest.approx([400, 200, 200], abs=1), "sqrt(d)"
    assert replace(unshrunk, allocation="norm")._counts(alike, uneven) == [267, 267, 266]
    assert replace(unshrunk, allocation="uniform")._counts(alike, uneven) == pytest.approx(
        [533, 133, 133], abs=1
    )


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_hadamard_is_that_of_scipy(size: int) -> None:
    vector = np.random.default_rng(size).normal(size=size)
    expected = scipy.linalg.hadamard(size) @ vector / np.sqrt(size)
    assert np.allclose(hadamard(vector), expected, atol=1e-12)
    assert np.allclose(hadamard(hadamard(vector)), vector, atol=1e-12)


def test_directions_in_pieces_are_the_same_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = SeededCodec(30, 2, "gaussian").in_round(START)
    payload = codec.encode(CHANGE, PLAN)
    decoded = codec.decode(payload, shapes_of(CHANGE), PLAN)
    monkeypatch.setattr(seeded, "_CHUNK", 100)
    pieces = unpack(codec.encode(CHANGE, PLAN))
    assert torch.allclose(pieces["update"], unpack(payload)["update"], rtol=1e-6)
    again = codec.decode(payload, shapes_of(CHANGE), PLAN)
    assert all(torch.allclose(again[name], decoded[name], atol=1e-6) for name in again)


def test_directions_follow_from_seed_broadcast_and_client() -> None:
    codec, other = SeededCodec(20).in_round(START), replace(PLAN, client=4)
    payload = codec.encode(CHANGE, PLAN)
    assert SeededCodec(20).in_round({"a": torch.ones(3)}).encode(CHANGE, PLAN) == payload
    assert codec.encode(CHANGE, other) != payload
    assert SeededCodec(20).in_round({"a": torch.zeros(3)}).encode(CHANGE, PLAN) != payload
    assert SeededCodec(20, seed=1).in_round(START).encode(CHANGE, PLAN) != payload
    shared = SeededCodec(20, shared=True).in_round(START)
    assert shared.encode(CHANGE, PLAN) == shared.encode(CHANGE, other)


def test_means_of_own_directions_lose_less_where_clients_agree() -> None:
    """With own directions the error of a mean of N equal updates is N times smaller."""
    exact = VECTOR["x"].numpy().astype(float)

    def error(shared: bool) -> float:
        codec = SeededCodec(10, 1, "gaussian", shrink=False, shared=shared)
        total = 0.0
        for seed in range(300):
            bound = replace(codec, seed=seed).in_round(START)
            rebuilt = []
            for client in range(8):
                plan = replace(PLAN, client=client)
                payload = bound.encode(VECTOR, plan)
                rebuilt.append(bound.decode(payload, shapes_of(VECTOR), plan)["x"].numpy())
            total += float(np.square(np.mean(rebuilt, axis=0) - exact).sum())
        return total

    assert error(True) / error(False) == pytest.approx(8, rel=0.15)


def test_computing_is_counted() -> None:
    shapes = {"x": (4, 256)}
    gaussian = SeededCodec(32, 4, "gaussian")
    # Norms, then for each of 32 coefficients a direction of 256 numbers, drawn and multiplied.
    assert gaussian.encoding_flops(shapes, PLAN) == 2 * 1024 + 32 * 256 * (DRAW_FLOPS + 2)
    turned = SeededCodec(32, 4, "orthonormal")
    # Norms, then for each of four blocks signs and 8 levels of 256 additions.
    assert turned.encoding_flops(shapes, PLAN) == 2 * 1024 + 4 * (256 + 8 * 256)


def test_what_cannot_be_is_refused() -> None:
    codec = SeededCodec(20, 4).in_round(START)
    frame = unpack(codec.encode(CHANGE, PLAN))
    for name, value in (("update", frame["update"][:-1]), ("norms", frame["norms"].double())):
        with pytest.raises(InputError, match="payload"):
            codec.decode(pack({**frame, name: value}), shapes_of(CHANGE), PLAN)
    with pytest.raises(InputError, match="norms"):
        damaged = {**frame, "norms": frame["norms"] * float("nan")}
        codec.decode(pack(damaged), shapes_of(CHANGE), PLAN)
    with pytest.raises(InputError, match=r"codec\.directions is 0"):
        SeededCodec(0)
    with pytest.raises(ValueError, match="bind the codec first"):
        SeededCodec(3).encode(CHANGE, PLAN)
