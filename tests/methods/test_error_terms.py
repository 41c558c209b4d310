"""The bounds' terms against dense matrices and by hand."""

import numpy as np
import pytest
import torch

from airtune.methods.jcpba.measure import pruning_term
from airtune.methods.soft_tsfa.measure import sent_energy, soft_terms
from airtune.update.server import Update
from tests.update.adapters import MATRICES, orthogonal_factors, product, random_factors


def test_sent_energy_of_orthogonal_factors_is_the_norm_of_the_change() -> None:
    start = {name: torch.zeros_like(x) for name, x in orthogonal_factors(0).items()}
    change = orthogonal_factors(1)
    dense = sum(float(product(change, matrix).square().sum()) for matrix in MATRICES)
    assert sent_energy(start, change) == pytest.approx(dense, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_terms_of_two_clients(scale: float) -> None:
    start = random_factors(0)
    changes = [random_factors(seed, scale=scale) for seed in (1, 2)]
    updates = [
        Update(n, weight, change)
        for n, (weight, change) in enumerate(zip((1.0, 3.0), changes, strict=True))
    ]
    terms = soft_terms(start, updates, [0.5, 0.2], truncated_share=0.1)
    sent = [sent_energy(start, change) for change in changes]
    whole = 0.25 * sent[0] / 0.5 + 0.75 * sent[1] / 0.8
    assert terms.update == pytest.approx(whole)
    assert terms.sparsification == pytest.approx(0.25 * sent[0] + 0.75 * sent[1] / 4)
    assert terms.rank == pytest.approx(0.1 * whole)
    expected = 0.0
    for matrix in MATRICES:
        products = [product(change, matrix) for change in changes]
        mean = {name: 0.25 * changes[0][name] + 0.75 * changes[1][name] for name in start}
        gap = 0.25 * products[0] + 0.75 * products[1] - product(mean, matrix)
        expected += float(gap.square().sum())
    assert terms.covariance == pytest.approx(expected, rel=1e-5)


def test_alike_clients_have_no_covariance_and_a_whole_update_drops_nothing() -> None:
    change = random_factors(1)
    terms = soft_terms(random_factors(0), [Update(n, 1.0, change) for n in range(3)], [0.0] * 3)
    assert terms.covariance == pytest.approx(0.0, abs=1e-9)
    assert terms.sparsification == 0.0
    assert terms.rank is None


def test_pruning_term_weighs_the_clients() -> None:
    term = pruning_term([1.0, 3.0], [0.4, 0.0], [0.2, 0.0])
    assert term.bound == pytest.approx(0.1)
    assert term.measured == pytest.approx(0.05)
    scaled = pruning_term(list(np.array([1.0, 3.0]) * 1e6), [0.4, 0.0], [0.2, 0.0])
    assert scaled == term
