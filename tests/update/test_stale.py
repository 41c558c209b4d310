"""The product error of a stale update, against plain products."""

import pytest
import torch

from airtune.update.stale import stale_error
from tests.update.adapters import MATRICES, product, random_factors


def moved(state: dict[str, torch.Tensor], by: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value + by[name] for name, value in state.items()}


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_against_whole_products(scale: float) -> None:
    start, others = random_factors(1), random_factors(2, scale=0.3)
    change = random_factors(3, scale=scale)
    now = moved(start, others)
    wrong = wanted = 0.0
    for name in MATRICES:
        meant = product(moved(start, change), name) - product(start, name)
        done = product(moved(now, change), name) - product(now, name)
        wrong += float((done - meant).square().sum())
        wanted += float(meant.square().sum())
    assert stale_error(start, now, change) == pytest.approx((wrong / wanted) ** 0.5, rel=1e-4)


def test_a_fresh_update_has_none() -> None:
    start = random_factors(1)
    assert stale_error(start, start, random_factors(2)) == 0.0


def test_without_factors_or_change_it_is_not_known() -> None:
    assert stale_error({"x": torch.ones(2)}, {"x": torch.ones(2)}, {"x": torch.ones(2)}) is None
    start = random_factors(1)
    still = {name: torch.zeros_like(value) for name, value in start.items()}
    assert stale_error(start, moved(start, start), still) is None
