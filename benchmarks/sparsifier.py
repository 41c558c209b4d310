"""How much faster norms choose ranks than an SVD does, on the adapter of GPT-2 small.

All 48 linear layers of GPT-2 small, random fp32 factors, half of the ranks kept, one thread, the
least processor time of many turns of three calls (so that factors are in the cache, as right after
the change was computed). Milliseconds for the whole adapter:

    norms           norms and top-k, layers of one shape stacked, every rank's vectors contiguous (A
                    as LoRA holds it, B transposed); the choice is then two norms and a top-k
    norms, B        the same with B (out x rank) as LoRA holds it
    transpose       what it costs to transpose B first
    norms, codec    the same through `update.rank_sparse`, from one tensor a factor
    change, codec   importance of the change, through `update.rank_sparse`
    svd values      thin QR without Q, singular values of the rank x rank product, stacked: enough
                    to choose how many, but what to send must then still be made
    svd             thin QR, SVD of the rank x rank product, truncated factors, stacked, B
                    transposed as for norms (which is also the layout that QR likes best)
    svd, codec      the same through `update.svd`, matrix by matrix

    python benchmarks/sparsifier.py [--repeats 20]
"""

import argparse
from typing import Any

import torch
from reporting import report, seconds
from torch import Tensor

from airtune.tuning.adapter import factor_pairs
from airtune.update.rank_sparse import change_importance, largest_ranks, norm_importance
from airtune.update.svd import truncated_product

LAYERS = {
    "c_attn": (768, 2304),
    "attn.c_proj": (768, 768),
    "c_fc": (768, 3072),
    "mlp.c_proj": (3072, 768),
}
"""Layer -> in, out."""
BLOCKS = 12
RANKS = (8, 16, 32)

Stacks = dict[str, tuple[Tensor, Tensor]]
"""Layer -> A [block, rank, in], B [block, out, rank]."""


def random_stacks(rank: int, seed: int) -> Stacks:
    source = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(BLOCKS, rank, width, generator=source),
            torch.randn(BLOCKS, out, rank, generator=source),
        )
        for name, (width, out) in LAYERS.items()
    }


def transposed(stacks: Stacks) -> Stacks:
    """B as [block, rank, out], contiguous."""
    return {name: (a, b.mT.contiguous()) for name, (a, b) in stacks.items()}


def as_state(stacks: Stacks) -> dict[str, Tensor]:
    """One tensor a factor, under PEFT-like names."""
    state = {}
    for name, (a, b) in stacks.items():
        for block in range(BLOCKS):
            state[f"h.{block}.{name}.lora_A.weight"] = a[block].clone()
            state[f"h.{block}.{name}.lora_B.weight"] = b[block].clone()
    return state


def by_norms(stacks: Stacks, kept: int) -> Tensor:
    """Indices of the kept ranks [matrix, kept]; B is [block, rank, out]."""
    importance = [
        torch.linalg.vector_norm(a, dim=2) * torch.linalg.vector_norm(b, dim=2)
        for a, b in stacks.values()
    ]
    return torch.cat(importance).topk(kept, dim=1, sorted=False).indices


def by_column_norms(stacks: Stacks, kept: int) -> Tensor:
    """The same; B is [block, out, rank]."""
    importance = [
        torch.linalg.vector_norm(a, dim=2) * b.square().sum(1).sqrt_() for a, b in stacks.values()
    ]
    return torch.cat(importance).topk(kept, dim=1, sorted=False).indices


def _triangle(factors: Tensor) -> Tensor:
    triangle: Tensor = torch.linalg.qr(factors, mode="r").R
    return triangle


def singular_values(stacks: Stacks) -> list[Tensor]:
    return [
        torch.linalg.svdvals(
            torch.linalg.qr(b.mT, mode="r").R @ torch.linalg.qr(a.mT, mode="r").R.mT
        )
        for a, b in stacks.values()
    ]


def by_svd(stacks: Stacks, kept: int) -> list[tuple[Tensor, Tensor]]:
    """The factors to send."""
    sent = []
    for a, b in stacks.values():
        q_b, r_b = torch.linalg.qr(b.mT)
        q_a, r_a = torch.linalg.qr(a.mT)
        left, values, right = torch.linalg.svd(r_b @ r_a.mT)
        scaled = left[:, :, :kept] * values[:, None, :kept]
        sent.append((right[:, :kept] @ q_a.mT, q_b @ scaled))
    return sent


def measure(rank: int, repeats: int) -> dict[str, Any]:
    """One row: milliseconds of each route, and ratios."""
    kept = rank // 2
    stacks = random_stacks(rank, 1)
    rows = transposed(stacks)
    chosen = by_norms(rows, kept).sort().values
    assert torch.equal(chosen, by_column_norms(stacks, kept).sort().values)
    state, change = as_state(stacks), as_state(random_stacks(rank, 2))
    pairs = factor_pairs(state)
    counts = [kept] * len(pairs)
    routes = {
        "norms": lambda: by_norms(rows, kept),
        "norms, B": lambda: by_column_norms(stacks, kept),
        "transpose": lambda: transposed(stacks),
        "norms, codec": lambda: largest_ranks(norm_importance(state), counts),
        "change, codec": lambda: largest_ranks(change_importance(state, change), counts),
        "svd values": lambda: singular_values(rows),
        "svd": lambda: by_svd(rows, kept),
        "svd, codec": lambda: [
            truncated_product(state[p.lora_a], state[p.lora_b], kept) for p in pairs
        ],
    }
    best = dict.fromkeys(routes, float("inf"))
    for _ in range(repeats):
        # In turns, so that a busy machine disturbs all routes alike.
        for name, route in routes.items():
            best[name] = min(best[name], seconds(route, 3)[0])
    return {
        "rank": rank,
        **{f"{name} [ms]": 1e3 * value for name, value in best.items()},
        "svd / norms": best["svd"] / best["norms"],
        "svd / norms, B": best["svd"] / best["norms, B"],
        "svd values / norms": best["svd values"] / best["norms"],
        "svd / norms, codec": best["svd, codec"] / best["norms, codec"],
        "svd / change, codec": best["svd, codec"] / best["change, codec"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(rank, options.repeats) for rank in RANKS]
    report("sparsifier", rows, model="GPT-2 small, 48 matrices, half of the ranks kept, fp32")


if __name__ == "__main__":
    main()
