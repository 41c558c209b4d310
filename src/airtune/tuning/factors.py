"""The two LoRA factors of each adapted matrix, paired by the names that PEFT gives them."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from airtune.errors import InputError

_A, _B = ".lora_A.", ".lora_B."


@dataclass(frozen=True)
class FactorPair:
    """An adapted matrix and the names of its factors: `dW = B A`, A (rank, in), B (out, rank)."""

    matrix: str
    lora_a: str
    lora_b: str


def factor_pairs(names: Iterable[str]) -> tuple[FactorPair, ...]:
    """The adapted matrices in the order of their names, from state or parameter names.

    Client and server must agree on the order, and a mapping's own order changes on its way through
    a file. Raises InputError for a tensor whose partner is missing, or that is no LoRA factor.
    """
    return _pairs(tuple(names))


@lru_cache(maxsize=64)
def _pairs(names: tuple[str, ...]) -> tuple[FactorPair, ...]:
    # Kept, since pairing a hundred names takes as long as the norms of their tensors.
    known = set(names)
    for name in names:
        partner = name.replace(_A, _B) if _A in name else name.replace(_B, _A)
        if partner == name or partner not in known:
            raise InputError("adapter", name, "one of a pair of LoRA factors, lora_A and lora_B")
    return tuple(
        FactorPair(name.partition(_A)[0], name, name.replace(_A, _B))
        for name in sorted(names)
        if _A in name
    )
