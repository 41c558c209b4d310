"""What a stale update of factors gets wrong: the product of factors that others have moved since.

A client trains from (A0, B0) towards the product `(B0 + dB)(A0 + dA)`. Applied to newer factors
(A, B) the same changes move the product by as much and by

    dB (A - A0) + (B - B0) dA

beside it, which is 0 for a fresh update and grows with what the server has done since.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from airtune.tuning.adapter import factor_pairs


def stale_error(
    start: Mapping[str, Tensor], now: Mapping[str, Tensor], change: Mapping[str, Tensor]
) -> float | None:
    """Frobenius norm of the module's term over that of the product change, over all matrices.

    None without factors, or for a change of 0. `start` is what the client trained from, `now` what
    the change is applied to. No product of the layer's size is made.
    """
    if not all(".lora_A." in name or ".lora_B." in name for name in change):
        return None
    wrong = wanted = 0.0
    for pair in factor_pairs(change):
        a0, b0 = start[pair.lora_a].double(), start[pair.lora_b].double()
        da, db = change[pair.lora_a].double(), change[pair.lora_b].double()
        moved_a, moved_b = now[pair.lora_a].double() - a0, now[pair.lora_b].double() - b0
        wrong += _squared_norm([db, moved_b], [moved_a, da])
        wanted += _squared_norm([b0, db], [da, a0 + da])
    return (wrong / wanted) ** 0.5 if wanted > 0 else None


def _squared_norm(columns: list[Tensor], rows: list[Tensor]) -> float:
    """`||[B1, B2] [A1; A2]||^2` from Gram matrices."""
    left, right = torch.cat(columns, dim=1), torch.cat(rows)
    return max(float(((left.T @ left) * (right @ right.T)).sum()), 0.0)
