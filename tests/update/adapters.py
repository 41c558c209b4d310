"""Random adapter states and changes."""

import torch
from torch import Tensor

MATRICES = {"x": (3, 7, 5), "y": (4, 5, 9), "z": (2, 12, 4)}
"""Matrix -> rank, in, out; ranks differ on purpose."""


def random_factors(
    seed: int, matrices: dict[str, tuple[int, int, int]] = MATRICES, scale: float = 1.0
) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    state = {}
    for name, (rank, width, out) in matrices.items():
        state[f"{name}.lora_A.weight"] = scale * torch.randn(rank, width, generator=source)
        state[f"{name}.lora_B.weight"] = scale * torch.randn(out, rank, generator=source)
    return state


def orthogonal_factors(
    seed: int, matrices: dict[str, tuple[int, int, int]] = MATRICES
) -> dict[str, Tensor]:
    """Factors with orthogonal ranks of random length, in random order."""
    source = torch.Generator().manual_seed(seed)
    state = {}
    for name, (rank, width, out) in matrices.items():
        for factor, length in (("lora_A", width), ("lora_B", out)):
            directions = torch.linalg.qr(torch.randn(length, rank, generator=source)).Q
            sizes = 0.1 + 3.0 * torch.rand(rank, generator=source)
            vectors = directions * sizes
            state[f"{name}.{factor}.weight"] = (
                vectors.T.contiguous() if factor == "lora_A" else vectors
            )
    return state


def product(state: dict[str, Tensor], matrix: str) -> Tensor:
    return state[f"{matrix}.lora_B.weight"].double() @ state[f"{matrix}.lora_A.weight"].double()
