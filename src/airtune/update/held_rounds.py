"""Who has what of a broadcast that goes on: for each client the first round that it lacks."""

from collections.abc import Iterable, Sequence


def first_lacking(held: Sequence[int], client: int) -> int:
    """0 for a client that was never heard of."""
    return held[client] if client < len(held) else 0


def held_after(held: Sequence[int], received: Iterable[int], round_index: int) -> tuple[int, ...]:
    """Those that received what was sent in a round lack that round's own outcome and later ones."""
    known = dict(enumerate(held)) | dict.fromkeys(received, round_index)
    return tuple(known.get(client, 0) for client in range(max(known, default=-1) + 1))
