"""What a client may keep: nothing better is left out, and what is left out is bounded."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.allocation.sparsity import options as module
from airtune.allocation.sparsity.options import RankOptions, rank_options
from airtune.quantities import FloatArray


def every_subset(energy: FloatArray, payload: FloatArray) -> list[tuple[float, float]]:
    """(bits, dropped energy) of every non-empty subset."""
    owned = ~np.isnan(energy)
    energy, payload = energy[owned], np.broadcast_to(payload, owned.shape)[owned]
    found = []
    for flags in itertools.product([False, True], repeat=len(energy)):
        if any(flags):
            kept = np.array(flags)
            found.append((float(payload[kept].sum()), float(energy[~kept].sum())))
    return found


def options_of(options: RankOptions, client: int) -> list[tuple[float, float]]:
    rows = np.full(int(options.count[client]), client)
    option = np.arange(len(rows))
    return list(zip(options.bits(rows, option), options.dropped[client], strict=False))


def ragged(draw: np.random.Generator, clients: int, ranks: int) -> FloatArray:
    energy = draw.random((clients, ranks)) ** 3
    for client in range(clients):
        energy[client, draw.integers(1, ranks + 1) :] = np.nan
    return energy


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_the_best_set_for_any_bits_is_listed(seed: int, equal: bool, ties: bool) -> None:
    draw = np.random.default_rng(seed)
    energy = ragged(draw, 3, 5)
    if ties:
        energy = np.ceil(energy * 3)
    payload = draw.uniform(1, 9, (3, 1 if equal else 5)).round(0 if ties else 6)
    options = rank_options(energy, payload, np.zeros(3))
    assert options.complete
    for client in range(3):
        listed = options_of(options, client)
        assert listed == sorted(listed, key=lambda option: (option[0], -option[1]))
        for bits, dropped in every_subset(energy[client], payload[client]):
            room = [own for own_bits, own in listed if own_bits <= bits * (1 + 1e-12)]
            assert min(room) <= dropped * (1 + 1e-12) + 1e-14


@given(st.integers(0, 10_000), st.sampled_from(["equal", "subsets", "prefixes"]))
def test_kept_ranks_have_the_bits_and_the_energy_of_their_option(seed: int, kind: str) -> None:
    draw = np.random.default_rng(seed)
    energy = ragged(draw, 4, 6)
    payload = draw.uniform(1, 9, (4, 1 if kind == "equal" else 6))
    fixed = draw.random(4)
    if kind == "prefixes":
        options = module._prefixes(energy, np.where(np.isnan(energy), np.nan, payload), fixed)
    else:
        options = rank_options(energy, payload, fixed)
    for _ in range(5):
        option = draw.integers(0, options.count)
        kept = options.kept(option)
        assert not (kept & np.isnan(energy)).any()
        bits = fixed + np.where(kept, payload, 0.0).sum(axis=1)
        dropped = np.where(kept, 0.0, np.nan_to_num(energy)).sum(axis=1)
        rows = np.arange(4)
        assert options.bits(rows, option) == pytest.approx(bits)
        assert options.dropped[rows, option] == pytest.approx(dropped, abs=1e-15)


def test_equal_energies_keep_the_first_ranks() -> None:
    options = rank_options(np.full((1, 4), 2.0), np.array([[3.0]]), np.zeros(1))
    assert options.kept(np.array([1])).tolist() == [[True, True, False, False]]


@given(st.integers(0, 10_000))
def test_prefixes_come_with_a_bound_on_every_subset(seed: int) -> None:
    """The piecewise linear floor through the options lies below every set of ranks."""
    draw = np.random.default_rng(seed)
    energy, payload = ragged(draw, 1, 6), draw.uniform(1, 9, (1, 6))
    if seed % 3 == 0:
        payload[0, draw.integers(6)] = 0.0
    options = module._prefixes(energy, np.where(np.isnan(energy), np.nan, payload), np.zeros(1))
    assert not options.complete
    assert options.floor_dropped is not None
    listed = options_of(options, 0)
    bits = [own_bits for own_bits, _ in listed]
    floor = [float(options.floor_dropped[0]), *(dropped for _, dropped in listed[1:])]
    for own_bits, dropped in every_subset(energy[0], payload[0]):
        assert own_bits >= bits[0]
        assert dropped >= np.interp(own_bits, bits, floor) - 1e-12


def test_too_many_subsets_become_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    energy, payload = draw.random((3, 12)), draw.random((3, 12))
    assert rank_options(energy, payload, np.zeros(3)).complete
    monkeypatch.setattr(module, "TABLE_ENTRIES", 60)
    assert not rank_options(energy, payload, np.zeros(3)).complete


def test_many_ranks_of_few_sizes_stay_complete() -> None:
    """64 ranks in two matrices have few undominated subsets, unlike their 2^64 subsets."""
    draw = np.random.default_rng(2)
    energy = draw.random((2, 62))
    payload = np.repeat([[2.0, 5.0]], 31, axis=1) * np.ones((2, 1))
    options = rank_options(energy, payload, np.zeros(2))
    assert options.complete
    assert options.count.max() < 62 * 7
