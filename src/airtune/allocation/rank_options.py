"""What a client may keep of its update: lists of ranks, by bits sent and energy dropped."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airtune.quantities import FloatArray

IntArray = NDArray[np.intp]

SUBSET_ENTRIES = 20_000
"""Payloads that differ by rank: all subsets are listed up to this many (client, subset) pairs."""


@dataclass(frozen=True)
class RankOptions:
    """The options of each client, in ascending bits and descending dropped energy.

    Attributes:
        dropped: energy of the ranks that are not kept [client, option]; 0 in the padding.
        count: options of each client [client], at least 1.
        energy: energy of each rank [client, rank], NaN in the padding.
        payload_bits: bits of each rank [client, rank], or [client, 1] where all are equal.
        fixed_bits: sent in any case [client].
        listed_bits: bits sent [client, option], inf in the padding; None where option k keeps the
            k + 1 strongest of ranks of equal payload, and the bits need no list.
        floor_dropped: None if no set of ranks outside the list is ever better than one in it.
            Otherwise a lower bound on the dropped energy of ANY set of ranks with as many bits as
            option 0 [client]; from there through (bits, dropped) of the other options, the
            piecewise linear function is a lower bound for any number of bits.
        subsets: bit mask of the kept ranks [client, option]; None where the options are prefixes.
    """

    dropped: FloatArray
    count: IntArray
    energy: FloatArray
    payload_bits: FloatArray
    fixed_bits: FloatArray
    listed_bits: FloatArray | None = None
    floor_dropped: FloatArray | None = None
    subsets: NDArray[np.int64] | None = None

    @property
    def complete(self) -> bool:
        """Whether the best set of ranks is always among the options."""
        return self.floor_dropped is None

    def bits(self, clients: IntArray, option: IntArray) -> FloatArray:
        """Bits that these clients send with these options, broadcast; inf beyond the last one."""
        if self.listed_bits is not None:
            return self.listed_bits[clients, option]
        bits = self.fixed_bits[clients] + self.payload_bits[clients, 0] * (option + 1)
        return np.where(option < self.count[clients], bits, np.inf)

    def select(self, clients: IntArray) -> "RankOptions":
        """The options of some clients only."""
        return RankOptions(
            self.dropped[clients],
            self.count[clients],
            self.energy[clients],
            self.payload_bits[clients],
            self.fixed_bits[clients],
            None if self.listed_bits is None else self.listed_bits[clients],
            None if self.floor_dropped is None else self.floor_dropped[clients],
            None if self.subsets is None else self.subsets[clients],
        )

    def kept(self, option: IntArray) -> NDArray[np.bool_]:
        """Which ranks each client keeps under its option [client, rank]."""
        ranks = np.arange(self.energy.shape[1])
        rows = np.arange(len(option))
        if self.subsets is not None:
            return self.subsets[rows, option][:, None] >> ranks & 1 > 0
        place = np.empty(self.energy.shape, dtype=np.intp)
        order = _by_efficiency(self.energy, self.payload_bits)
        np.put_along_axis(place, order, ranks[None], axis=1)
        if self.complete:
            return place <= option[:, None]
        # Option 0 is the rank of least payload, option k the k most efficient ranks.
        smallest = _smallest(self.energy, self.payload_bits)
        alone = ranks == smallest[:, None]
        return np.where(option[:, None] == 0, alone, place < option[:, None])


def rank_options(
    energy: FloatArray, payload_bits: FloatArray, fixed_bits: FloatArray
) -> RankOptions:
    """The options worth considering.

    Equal payloads: the k strongest ranks, k = 1, 2, ... Payloads that differ by rank: all
    subsets that no other subset beats in both bits and energy, while those are few; beyond, the
    prefixes in descending energy per bit and the single rank of least payload, with a convex
    lower bound for everything left out.

    Args:
        energy: [client, rank], >= 0; NaN marks ranks that a client does not have, at the end.
        payload_bits: [client, rank] or [client, 1] for equal ranks, >= 0.
        fixed_bits: sent in any case [client], >= 0.
    """
    if payload_bits.shape[1] == 1:
        return _strongest(energy, payload_bits, fixed_bits)
    payload = np.where(np.isnan(energy), np.nan, payload_bits)
    if not (np.nanmax(payload, axis=1) > np.nanmin(payload, axis=1)).any():
        return _strongest(energy, payload[:, :1], fixed_bits)
    clients, ranks = energy.shape
    if ranks <= 14 and clients << ranks <= SUBSET_ENTRIES:
        return _subsets(energy, payload, fixed_bits)
    return _prefixes(energy, payload, fixed_bits)


def _strongest(energy: FloatArray, payload: FloatArray, fixed: FloatArray) -> RankOptions:
    count = np.count_nonzero(energy == energy, axis=1)
    # Energies are not negative, so that absent ranks sort as the weakest.
    present = energy if count.min() == energy.shape[1] else np.nan_to_num(energy)
    tails = _tails(np.sort(present, axis=1)[:, ::-1])
    return RankOptions(tails, count, energy, payload, fixed)


def _tails(values: FloatArray) -> FloatArray:
    """Sum of the values behind each position; summed from the end, so that nothing cancels."""
    tails = np.zeros_like(values, order="C")
    np.cumsum(values[:, :0:-1], axis=1, out=tails[:, -2::-1])
    return tails


def _subsets(energy: FloatArray, payload: FloatArray, fixed: FloatArray) -> RankOptions:
    clients, ranks = energy.shape
    mask = np.arange(1, 1 << ranks)
    member = mask[:, None] >> np.arange(ranks) & 1 > 0
    lists = []
    for n in range(clients):
        owned = ~(member & np.isnan(energy[n])).any(axis=1)
        bits = np.where(member[owned], payload[n], 0.0).sum(axis=1)
        dropped = np.where(member[owned], 0.0, np.nan_to_num(energy[n])).sum(axis=1)
        order = np.lexsort((dropped, bits))
        best_before = np.minimum.accumulate(np.append(np.inf, dropped[order][:-1]))
        order = order[dropped[order] < best_before]
        lists.append((fixed[n] + bits[order], dropped[order], mask[owned][order]))
    count = np.array([len(bits) for bits, _, _ in lists])
    shape = (clients, int(count.max()))
    bits, dropped = np.full(shape, np.inf), np.zeros(shape)
    subsets = np.zeros(shape, dtype=np.int64)
    for n, (own_bits, own_dropped, own_mask) in enumerate(lists):
        bits[n, : count[n]], dropped[n, : count[n]] = own_bits, own_dropped
        subsets[n, : count[n]] = own_mask
    return RankOptions(dropped, count, energy, payload, fixed, bits, None, subsets)


def _prefixes(energy: FloatArray, payload: FloatArray, fixed: FloatArray) -> RankOptions:
    order = _by_efficiency(energy, payload)
    strength = np.take_along_axis(energy, order, 1)
    cost = np.take_along_axis(payload, order, 1)
    absent = np.isnan(strength)
    strength = np.where(absent, 0.0, strength)
    tails = _tails(strength)
    prefix_bits = np.cumsum(np.where(absent, np.inf, cost), axis=1)
    rows = np.arange(len(energy))
    smallest = _smallest(energy, payload)
    least_bits = payload[rows, smallest]
    bits = fixed[:, None] + np.column_stack([least_bits, prefix_bits])
    without = np.nan_to_num(energy)
    without[rows, smallest] = 0.0
    dropped = np.column_stack([without.sum(axis=1), tails])
    # No bits save more energy than the first ones of the most efficient rank.
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(cost[:, 0] > 0, np.minimum(least_bits / cost[:, 0], 1.0), 1.0)
    floor = np.minimum(tails[:, 0] + (1.0 - part) * strength[:, 0], dropped[:, 0])
    count = 1 + np.count_nonzero(~absent, axis=1)
    return RankOptions(dropped, count, energy, payload, fixed, bits, floor)


def _smallest(energy: FloatArray, payload: FloatArray) -> IntArray:
    smallest: IntArray = np.argmin(np.where(np.isnan(energy), np.inf, payload), axis=1)
    return smallest


def _by_efficiency(energy: FloatArray, payload: FloatArray) -> IntArray:
    """Ranks by descending energy per bit, the lowest index first among equals; absent ones last."""
    if payload.shape[1] == 1:
        return np.argsort(-energy, axis=1, kind="stable")
    with np.errstate(divide="ignore", invalid="ignore"):
        efficiency = np.where(energy > 0, energy / payload, 0.0)
    return np.argsort(np.where(np.isnan(energy), np.inf, -efficiency), axis=1, kind="stable")
