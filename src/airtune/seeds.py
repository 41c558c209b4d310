"""Every random draw comes from (seed, purpose, round, client), never from a global generator."""

import hashlib

import numpy as np

NO_CLIENT = -1
"""The client argument of a draw that belongs to the server or to all clients together."""


def _entropy(seed: int, purpose: str, round_index: int, client: int) -> list[int]:
    digest = hashlib.blake2b(purpose.encode(), digest_size=8).digest()
    # SeedSequence takes unsigned words; the shift keeps "no client" and "round 0" apart.
    return [seed, int.from_bytes(digest, "little"), round_index + 1, client + 1]


def generator(
    seed: int, purpose: str, round_index: int = 0, client: int = NO_CLIENT
) -> np.random.Generator:
    """An independent Philox stream for one purpose in one round of one client.

    A vector over clients may be drawn from one stream without a client: element k then belongs to
    client k, and adding clients at the end changes none of those before.

    >>> generator(1, "fading", 3).random() == generator(1, "fading", 3).random()
    True
    """
    sequence = np.random.SeedSequence(_entropy(seed, purpose, round_index, client))
    return np.random.Generator(np.random.Philox(sequence))


def integer_seed(seed: int, purpose: str, round_index: int = 0, client: int = NO_CLIENT) -> int:
    """A 63-bit seed of the same stream, for generators that are not numpy's."""
    sequence = np.random.SeedSequence(_entropy(seed, purpose, round_index, client))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
