"""Singular values of a change of `B A`, without making `B A`."""

from collections.abc import Mapping

import torch
from torch import Tensor

from airtune.tuning.factors import factor_pairs


def change_spectrum(start: Mapping[str, Tensor], change: Mapping[str, Tensor]) -> Tensor:
    """Energies (squared singular values) of `B1 A1 - B0 A0`, falling, summed over the matrices.

    `B1 A1 - B0 A0 = [B1, -B0] [A1; A0]`, so thin QR of both and an SVD of twice the rank suffice
    (Golub and Van Loan, Matrix Computations, 4th ed., 5.2). Entry k is the energy that rank k + 1
    adds to the best approximation of rank k, if every matrix has the same rank.
    """
    spectra = []
    for pair in factor_pairs(start):
        a0, b0 = start[pair.lora_a].double(), start[pair.lora_b].double()
        a1, b1 = a0 + change[pair.lora_a].double(), b0 + change[pair.lora_b].double()
        r_b = torch.linalg.qr(torch.cat([b1, -b0], dim=1)).R
        r_a = torch.linalg.qr(torch.cat([a1, a0]).T).R
        spectra.append(torch.linalg.svdvals(r_b @ r_a.T).square())
    longest = max(len(values) for values in spectra)
    padded = [torch.nn.functional.pad(values, (0, longest - len(values))) for values in spectra]
    return torch.stack(padded).sum(0)
