"""Server optimisers against plain loops over single numbers, and at their limits."""

import math
from collections.abc import Sequence

import pytest
import torch

from airtune.update.server import ServerAdam, ServerMomentum, ServerOptimizer, TakeMerged


def _follow(server: ServerOptimizer, start: float, changes: Sequence[float]) -> list[float]:
    """Where the server goes when round t proposes changes[t]."""
    adapter, places = {"x": torch.tensor([start])}, []
    memory: dict[str, torch.Tensor] = {}
    for change in changes:
        merged = {"x": adapter["x"] + change}
        adapter, memory = server.step(adapter, merged, memory)
        places.append(float(adapter["x"]))
    return places


CHANGES = (0.5, -0.25, 0.125, 0.0, 1.0)


def test_momentum_is_a_sum_of_faded_changes() -> None:
    """x_t = x_0 + eta sum_{s <= t} sum_{u <= s} beta^(s - u) D_u, summed up anew each time."""
    eta, beta = 0.7, 0.6
    expected = [
        2.0 + eta * sum(beta ** (s - u) * CHANGES[u] for s in range(t + 1) for u in range(s + 1))
        for t in range(len(CHANGES))
    ]
    assert _follow(ServerMomentum(eta, beta), 2.0, CHANGES) == pytest.approx(expected, rel=1e-6)


def test_adam_number_by_number() -> None:
    eta, beta, second, tau = 0.1, 0.8, 0.9, 0.05
    place, mean, square, expected = -1.0, 0.0, tau**2, []
    for change in CHANGES:
        mean = beta * mean + (1 - beta) * change
        square = second * square + (1 - second) * change**2
        place += eta * mean / (math.sqrt(square) + tau)
        expected.append(place)
    found = _follow(ServerAdam(eta, beta, second, tau), -1.0, CHANGES)
    assert found == pytest.approx(expected, rel=1e-6)


def test_momentum_zero_and_rate_one_is_fedavg() -> None:
    merged = {"x": torch.randn(50, generator=torch.Generator().manual_seed(0))}
    start = {"x": torch.full((50,), 0.3)}
    taken, nothing = TakeMerged().step(start, merged, {})
    stepped, _ = ServerMomentum(1.0, 0.0).step(start, merged, {})
    assert torch.equal(taken["x"], merged["x"])
    assert torch.equal(stepped["x"], merged["x"])
    assert nothing == {}


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_a_lasting_change_moves_adam_by_its_learning_rate(size: float) -> None:
    """After many rounds m = D and sqrt(v) = |D|, so a step is eta D / (|D| + tau)."""
    places = _follow(ServerAdam(0.1, 0.5, 0.5, 1e-9), 0.0, [-size] * 40)
    assert places[-1] - places[-2] == pytest.approx(-0.1, rel=1e-4)


def test_a_lasting_change_is_amplified_by_momentum() -> None:
    places = _follow(ServerMomentum(1.0, 0.75), 0.0, [1.0] * 60)
    assert places[-1] - places[-2] == pytest.approx(4.0, rel=1e-5)


@pytest.mark.parametrize("server", [TakeMerged(), ServerMomentum(), ServerAdam()])
def test_names_types_and_shapes_stay(server: ServerOptimizer) -> None:
    start = {"b": torch.zeros(2, 3), "a": torch.ones(4)}
    merged = {name: value + 1.0 for name, value in start.items()}
    following, memory = server.step(start, merged, {})
    assert list(following) == list(start)
    assert all(following[name].shape == start[name].shape for name in start)
    assert all(tensor.dtype == torch.float32 for tensor in (*following.values(), *memory.values()))
    assert torch.equal(start["a"], torch.ones(4)), "the state that came in is left as it was"
