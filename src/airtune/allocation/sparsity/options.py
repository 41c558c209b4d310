"""What a client may keep of its update: lists of ranks, by bits sent and energy dropped."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airtune.quantities import FloatArray

IntArray = NDArray[np.intp]

TABLE_ENTRIES = 60_000
"""Up to this many (client, option) pairs are costed together; also the most subsets listed."""
_MASK_BITS = 62
_BLOCK = 4096


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

    def dropped_at(self, clients: IntArray, option: IntArray) -> FloatArray:
        """Energy that these clients drop with these options [..., client]."""
        flat, width = self.dropped.ravel(), self.dropped.shape[1]
        dropped = np.empty(option.shape)
        # In blocks whose rows stay in the processor's cache from one option to the next.
        for start in range(0, option.shape[-1], _BLOCK):
            block = np.s_[..., start : start + _BLOCK]
            dropped[block] = flat.take(clients[block] * width + option[block])
        return dropped

    def bits(self, clients: IntArray | slice, option: IntArray) -> FloatArray:
        """Bits that these clients send with these options [..., client]; inf beyond the last."""
        if self.listed_bits is not None:
            columns = np.arange(len(self.count))[clients]
            return self.listed_bits[columns, option]
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
        if self.complete:
            return _strongest_ranks(self.energy, option + 1)
        place = np.empty(self.energy.shape, dtype=np.intp)
        order = _by_efficiency(self.energy, self.payload_bits)
        np.put_along_axis(place, order, ranks[None], axis=1)
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
    listed = _subsets(energy, payload, fixed_bits)
    return _prefixes(energy, payload, fixed_bits) if listed is None else listed


def _strongest(energy: FloatArray, payload: FloatArray, fixed: FloatArray) -> RankOptions:
    count = np.count_nonzero(energy == energy, axis=1)
    # Energies are not negative, so that absent ranks sort as the weakest.
    present = energy if count.min() == energy.shape[1] else np.nan_to_num(energy)
    tails = _tails(np.sort(present, axis=1)[:, ::-1])
    return RankOptions(tails, count, energy, payload, fixed)


def _strongest_ranks(energy: FloatArray, count: IntArray) -> NDArray[np.bool_]:
    """The `count` strongest ranks of each client, the first ones among equals."""
    rising: FloatArray = np.sort(np.where(np.isnan(energy), -1.0, energy), axis=1)
    weakest = rising[np.arange(len(count)), energy.shape[1] - count][:, None]
    kept: NDArray[np.bool_] = energy >= weakest
    for n in np.flatnonzero(np.count_nonzero(kept, axis=1) > count):
        equal = np.flatnonzero(energy[n] == weakest[n])
        kept[n, equal[count[n] - np.count_nonzero(kept[n]) :]] = False
    return kept


def _tails(values: FloatArray) -> FloatArray:
    """Sum of the values behind each position; summed from the end, so that nothing cancels."""
    tails = np.zeros_like(values, order="C")
    np.cumsum(values[:, :0:-1], axis=1, out=tails[:, -2::-1])
    return tails


def _subsets(energy: FloatArray, payload: FloatArray, fixed: FloatArray) -> RankOptions | None:
    """All undominated subsets of every client, or None if there are too many."""
    clients, ranks = energy.shape
    if ranks > _MASK_BITS:
        return None
    lists = []
    for own_energy, own_payload in zip(energy, payload, strict=True):
        owned = ~np.isnan(own_energy)
        found = _undominated(own_energy[owned], own_payload[owned], TABLE_ENTRIES // clients)
        if found is None:
            return None
        lists.append(found)
    count = np.array([len(bits) for bits, _ in lists])
    shape = (clients, int(count.max()))
    bits, dropped = np.full(shape, np.inf), np.zeros(shape)
    subsets = np.zeros(shape, dtype=np.int64)
    for n, (own_bits, own_mask) in enumerate(lists):
        member = own_mask[:, None] >> np.arange(ranks) & 1 > 0
        bits[n, : count[n]] = fixed[n] + own_bits
        subsets[n, : count[n]] = own_mask
        dropped[n, : count[n]] = np.where(member, 0.0, np.nan_to_num(energy[n])).sum(axis=1)
    return RankOptions(dropped, count, energy, payload, fixed, bits, None, subsets)


def _undominated(
    energy: FloatArray, payload: FloatArray, limit: int
) -> tuple[FloatArray, NDArray[np.int64]] | None:
    """Bits and bit masks of the non-empty subsets that no other one beats in bits and energy.

    Rank after rank joins all subsets so far, and what is dominated is dropped at once (Nemhauser
    and Ullmann, 1969). None as soon as there are more than `limit`.
    """
    bits, kept, mask = np.empty(0), np.empty(0), np.empty(0, dtype=np.int64)
    rounding = 1e-15 * float(energy.sum())
    for rank, (strength, cost) in enumerate(zip(energy, payload, strict=True)):
        bits = np.concatenate([bits, bits + cost, [cost]])
        kept = np.concatenate([kept, kept + strength, [strength]])
        mask = np.concatenate([mask, mask | 1 << rank, [1 << rank]])
        order = np.lexsort((-kept, bits))
        bits, kept, mask = bits[order], kept[order], mask[order]
        best_before = np.maximum.accumulate(np.append(-np.inf, kept[:-1]))
        better = kept > best_before + rounding
        better[0] = True
        bits, kept, mask = bits[better], kept[better], mask[better]
        if len(bits) > limit:
            return None
    return bits, mask


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
    with np.errstate(divide="ignore", invalid="ignore"):
        efficiency = np.where(energy > 0, energy / payload, 0.0)
    return np.argsort(np.where(np.isnan(energy), np.inf, -efficiency), axis=1, kind="stable")
