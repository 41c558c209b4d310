"""The covariance term against the products it never makes."""

import pytest
import torch
from torch import Tensor

from airtune.update.means import factor_covariance
from airtune.update.server import Update
from tests.update.adapters import MATRICES, product, random_factors


def plain(states: list[dict[str, Tensor]], weights: list[float]) -> float:
    """|| sum w B A - (sum w B)(sum w A) ||_F over all matrices, weights that sum to 1."""
    squared = 0.0
    mean = {
        name: sum(w * s[name].double() for w, s in zip(weights, states, strict=True))
        for name in states[0]
    }
    for matrix in MATRICES:
        products = sum(w * product(s, matrix) for w, s in zip(weights, states, strict=True))
        squared += float((products - product(mean, matrix)).norm()) ** 2  # type: ignore[arg-type, operator]
    return float(squared**0.5)


@pytest.mark.parametrize("clients", [2, 3, 12])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_against_the_products(clients: int, scale: float) -> None:
    states = [random_factors(seed, scale=scale) for seed in range(clients)]
    weights = [1.0 + seed for seed in range(clients)]
    updates = [Update(n, w, s) for n, (w, s) in enumerate(zip(weights, states, strict=True))]
    total = sum(weights)
    assert factor_covariance(updates) == pytest.approx(
        plain(states, [w / total for w in weights]), rel=1e-9
    )


def test_a_common_start_does_not_count() -> None:
    """Changes deviate as the factors do."""
    start = random_factors(50, scale=3.0)
    changes = [random_factors(seed) for seed in range(4)]
    states = [{name: start[name] + tensor for name, tensor in c.items()} for c in changes]
    one = factor_covariance([Update(n, 1.0, c) for n, c in enumerate(changes)])
    two = factor_covariance([Update(n, 1.0, s) for n, s in enumerate(states)])
    assert one == pytest.approx(two, rel=1e-5)


def test_no_disagreement_no_covariance() -> None:
    change = random_factors(1)
    assert factor_covariance([]) == 0.0
    assert factor_covariance([Update(0, 5.0, change)]) == pytest.approx(0.0, abs=1e-12)
    alike = [Update(n, 1.0 + n, change) for n in range(3)]
    assert factor_covariance(alike) == pytest.approx(0.0, abs=1e-6)
    frozen = [
        {k: (v if "lora_B" in k else torch.zeros_like(v)) for k, v in random_factors(s).items()}
        for s in range(3)
    ]
    assert factor_covariance([Update(n, 1.0, c) for n, c in enumerate(frozen)]) == 0.0
