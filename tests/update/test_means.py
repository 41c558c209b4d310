"""The factor mean against a plain sum, and what must not change it."""

import numpy as np
import pytest
import torch

from airtune.update.means import FactorMean
from airtune.update.server import Update


def _update(client: int, weight: float, seed: int) -> Update:
    source = torch.Generator().manual_seed(seed)
    return Update(client, weight, {"x": torch.randn(3, 4, generator=source)})


def test_weighted_mean_of_changes() -> None:
    state = {"x": torch.full((3, 4), 2.0)}
    updates = [_update(0, 1.0, 1), _update(1, 3.0, 2), _update(4, 0.5, 3)]
    merged = FactorMean().aggregate(state, updates)["x"].numpy()
    expected = 2.0 + sum(u.weight * u.change["x"].numpy().astype(float) for u in updates) / 4.5
    np.testing.assert_allclose(merged, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_only_relative_weights_count(scale: float) -> None:
    state = {"x": torch.zeros(3, 4)}
    plain = FactorMean().aggregate(state, [_update(0, 1.0, 1), _update(1, 2.0, 2)])["x"]
    scaled = FactorMean().aggregate(
        state, [_update(0, 1.0 * scale, 1), _update(1, 2.0 * scale, 2)]
    )["x"]
    torch.testing.assert_close(plain, scaled, rtol=1e-6, atol=0)


def test_a_client_alone_is_followed_exactly() -> None:
    state = {"x": torch.full((3, 4), 0.25)}
    update = _update(0, 7.0, 1)
    assert torch.equal(FactorMean().aggregate(state, [update])["x"], 0.25 + update.change["x"])
