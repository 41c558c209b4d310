"""The penalty against plain loops, its gradient, the orthonormal start, and the cosine log."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import AdapterSettings, attach, factor_pairs
from airtune.tuning.base_model import BaseModel
from airtune.tuning.local import TrainingSettings, train_locally
from airtune.tuning.orthogonality import (
    MeanCosine,
    OrthogonalityPenalty,
    OrthogonalTuner,
    mean_cosine,
    orthonormal_state,
)
from airtune.tuning.tuner import TuningContext
from tests.models import small_model
from tests.tuning.test_local import make_batch

SHAPES = {"x": (3, 7, 5), "y": (3, 7, 5), "z": (4, 5, 9)}
"""Matrix -> rank, in, out."""


def adapted(family: str = "llama", rank: int = 2) -> Any:
    return attach(BaseModel(small_model(family), None, "random"), AdapterSettings(rank))


def factors(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    state = {}
    for name, (rank, width, out) in SHAPES.items():
        state[f"{name}.lora_A.weight"] = scale * torch.randn(rank, width, generator=source)
        state[f"{name}.lora_B.weight"] = scale * torch.randn(out, rank, generator=source)
    return state


def plain_penalty(state: dict[str, Tensor], relative: bool) -> float:
    total = 0.0
    for name, (rank, _, _) in SHAPES.items():
        a, b = state[f"{name}.lora_A.weight"].double(), state[f"{name}.lora_B.weight"].double()
        for i, j in itertools.permutations(range(rank), 2):
            for u, v in ((a[i], a[j]), (b[:, i], b[:, j])):
                norms = float(u.norm() * v.norm()) if relative else 1.0
                total += float(u @ v) ** 2 / norms
    return total


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_penalty_is_the_sum_over_ordered_pairs(relative: bool, scale: float) -> None:
    state = factors(1, scale)
    value = OrthogonalityPenalty(2.5, relative)(state)
    assert float(value) == pytest.approx(2.5 * plain_penalty(state, relative), rel=1e-5)


def test_only_angles_count() -> None:
    state = factors(2)
    for pair in factor_pairs(state):
        rank, width = state[pair.lora_a].shape
        rows = torch.linalg.qr(torch.randn(width, rank)).Q.T
        state[pair.lora_a] = rows * torch.tensor([3.0, 0.01, 700.0, 1.0])[:rank, None]
        state[pair.lora_b] = torch.eye(state[pair.lora_b].shape[0])[:, :rank] * 5.0
    assert float(OrthogonalityPenalty(1.0, relative=True)(state)) < 1e-6
    assert mean_cosine(state).lora_a < 1e-6
    assert mean_cosine(state).lora_b == 0.0


@pytest.mark.parametrize("relative", [False, True])
def test_gradient(relative: bool) -> None:
    """Raw: 4 strength offdiag(G) rows. Relative: the same, with norms treated as constants."""
    state = {name: value.double().requires_grad_() for name, value in factors(3).items()}
    OrthogonalityPenalty(1.5, relative)(state).backward()
    for pair in factor_pairs(state):
        for name, vectors in (
            (pair.lora_a, state[pair.lora_a]),
            (pair.lora_b, state[pair.lora_b].T),
        ):
            fixed = vectors.detach()
            norms = fixed.norm(dim=1) if relative else torch.ones(len(fixed), dtype=torch.float64)
            gram = fixed @ fixed.T / torch.outer(norms, norms)
            gram.fill_diagonal_(0.0)
            expected = 4 * 1.5 * gram @ fixed
            gradient = state[name].grad
            assert gradient is not None
            torch.testing.assert_close(
                gradient if name == pair.lora_a else gradient.T, expected, rtol=1e-9, atol=1e-12
            )


def test_clients_trained_together_add_up() -> None:
    one, two = factors(4), factors(5)
    both = {name: torch.stack([one[name], two[name]]) for name in one}
    for relative in (False, True):
        penalty = OrthogonalityPenalty(3.0, relative)
        assert float(penalty(both)) == pytest.approx(float(penalty(one)) + float(penalty(two)))


@pytest.mark.parametrize("relative", [False, True])
def test_at_the_start_there_is_nothing_to_punish(relative: bool) -> None:
    model = adapted("llama")
    state = {k: v.requires_grad_() for k, v in orthonormal_state(model, seed=3).items()}
    value = OrthogonalityPenalty(100.0, relative)(state)
    value.backward()
    assert float(value.detach()) < 1e-10
    for tensor in state.values():
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() < 1e-4


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_orthonormal_start(family: str) -> None:
    model = adapted(family)
    torch.manual_seed(1)
    state = orthonormal_state(model, seed=3)
    for pair in factor_pairs(state):
        rows = state[pair.lora_a]
        torch.testing.assert_close(rows @ rows.T, torch.eye(2), rtol=0, atol=1e-5)
        assert not state[pair.lora_b].any()
    torch.manual_seed(2)
    again = orthonormal_state(model, seed=3)
    assert all(torch.equal(state[name], again[name]) for name in state)
    other = orthonormal_state(model, seed=4)
    assert any(not torch.equal(state[name], other[name]) for name in state)
    starts = {tuple(state[pair.lora_a].flatten().tolist()) for pair in factor_pairs(state)}
    assert len(starts) == len(factor_pairs(state)), "two matrices start alike"


def test_rank_wider_than_the_layer_is_refused() -> None:
    with pytest.raises(InputError, match=r"adapter\.rank is 33, but it must be at most 32"):
        orthonormal_state(adapted("llama", rank=33), seed=0)


def test_mean_cosine_by_hand() -> None:
    """Rows at 60 degrees and a zero row in A; B has one pair at 0 and two at 90 degrees."""
    half, root = 0.5, math.sqrt(3) / 2
    state = {
        "m.lora_A.weight": torch.tensor([[2.0, 0.0], [half, root], [0.0, 0.0]]),
        "m.lora_B.weight": torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, -7.0]]),
    }
    cosines = mean_cosine(state)
    assert cosines.lora_a == pytest.approx(half)
    assert cosines.lora_b == pytest.approx(1 / 3)
    assert mean_cosine({k: torch.zeros_like(v) for k, v in state.items()}) == MeanCosine(0.0, 0.0)


def test_penalty_is_trained_on_but_not_reported() -> None:
    model, batch = adapted(), make_batch(2)
    start = orthonormal_state(model, seed=5)
    source = torch.Generator().manual_seed(1)
    for pair in factor_pairs(start):
        start[pair.lora_b].normal_(generator=source).mul_(0.1)
    sgd = TrainingSettings("sgd", learning_rate=0.01, max_grad_norm=0.0)
    without = train_locally(model, start, [batch], sgd, (0, 0, 0))
    penalty = OrthogonalityPenalty(50.0, relative=False)
    having = train_locally(model, start, [batch], sgd, (0, 0, 0), penalty=penalty)
    leaves = {name: value.clone().requires_grad_() for name, value in start.items()}
    penalty(leaves).backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        torch.testing.assert_close(
            having.state[name], without.state[name] - 0.01 * leaf.grad, rtol=1e-4, atol=1e-6
        )
    assert having.losses == without.losses
    zero = train_locally(model, start, [batch], sgd, (0, 0, 0), penalty=OrthogonalityPenalty(0.0))
    assert all(torch.equal(zero.state[name], without.state[name]) for name in start)


@pytest.mark.parametrize("penalty", [OrthogonalityPenalty(), OrthogonalityPenalty(100.0, False)])
def test_penalty_makes_factors_orthogonal(penalty: OrthogonalityPenalty) -> None:
    model = adapted("llama", rank=4)
    start = orthonormal_state(model, seed=5)
    batches = [make_batch(seed) for seed in range(40)]
    settings = TrainingSettings(learning_rate=5e-3)
    loose = mean_cosine(train_locally(model, start, batches, settings, (0, 0, 0)).state)
    trained = train_locally(model, start, batches, settings, (0, 0, 0), penalty=penalty)
    tight = mean_cosine(trained.state)
    assert tight.lora_b < 0.4 * loose.lora_b
    assert tight.lora_a < 0.4 * loose.lora_a


def test_tuner_trains_with_the_penalty() -> None:
    model = adapted("llama", rank=4)
    start = orthonormal_state(model, seed=5)
    batches = [make_batch(seed) for seed in range(3)]
    settings = TrainingSettings(learning_rate=5e-3)
    plan = ClientPlan(client=6, bandwidth_hz=1e6, tx_power_w=0.2, rank=4)
    context = TuningContext(model, batches, settings, seed=1, round_index=2, carried={})
    tuned = OrthogonalTuner(2.0, relative=False).tune(start, plan, context)
    expected = train_locally(
        model, start, batches, settings, (1, 2, 6), penalty=OrthogonalityPenalty(2.0, False)
    )
    assert all(torch.equal(tuned.state[name], expected.state[name]) for name in start)
    with pytest.raises(InputError, match=r"penalty"):
        OrthogonalTuner(-1.0)


@pytest.mark.parametrize("strength", [-1.0, math.inf, math.nan])
def test_senseless_strengths_are_refused(strength: float) -> None:
    with pytest.raises(InputError, match=r"penalty"):
        OrthogonalityPenalty(strength)


def test_unpaired_factors_are_refused() -> None:
    names = ["m.lora_A.default.weight", "m.lora_B.default.weight", "n.lora_A.default.weight"]
    pair = factor_pairs(names[:2])[0]
    assert (pair.matrix, pair.lora_a, pair.lora_b) == ("m", names[0], names[1])
    with pytest.raises(InputError, match=r"n\.lora_A"):
        factor_pairs(names)
    with pytest.raises(InputError, match=r"m\.lora_B"):
        factor_pairs(names[1:2])
    with pytest.raises(InputError, match="embed"):
        factor_pairs([*names[:2], "embed"])
