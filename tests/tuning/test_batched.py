"""Clients trained as one stack, against the same clients one after another."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from airtune.data.batches import Batch
from airtune.errors import InputError
from airtune.round_plan import ClientPlan
from airtune.tuning import label_loss
from airtune.tuning.adapter import AdapterSettings, AdapterState, attach, factor_pairs, read_state
from airtune.tuning.base_model import BaseModel
from airtune.tuning.local import LocalResult, TrainingSettings, train_locally
from airtune.tuning.orthogonality import OrthogonalityPenalty, OrthogonalTuner
from airtune.tuning.partial import FirstRanksTuner
from airtune.tuning.stack import passes, train_stacked
from airtune.tuning.stacked_linear import StackedLinear, refuses_stacking, stacked_layers
from airtune.tuning.tuner import FullTuner, Tuner, TuningContext, TuningJob
from airtune.update.codec import DenseCodec
from airtune.update.error_feedback import FeedbackTuner
from tests.models import CONFIGS, small_model
from tests.rounding import (
    assert_adam_step,
    assert_same_moments,
    assert_same_sgd_step,
    by_name,
)

SETTINGS = TrainingSettings("sgd", learning_rate=1.0, max_grad_norm=0.5)
"""One step of SGD, clipped: a state moves by minus its gradient."""
ADAMW = TrainingSettings(learning_rate=2e-3, max_grad_norm=0.5, keep_optimizer=True)


def adapted(family: str, **settings: Any) -> Any:
    return attach(
        BaseModel(small_model(family), None, "random"), AdapterSettings(rank=3, **settings)
    )


def start_of(model: Any, client: int) -> AdapterState:
    draws = torch.Generator().manual_seed(client)
    return {k: 0.1 * torch.randn(v.shape, generator=draws) for k, v in read_state(model).items()}


def batch_of(client: int, step: int, rows: int = 2, tokens: int = 0) -> Batch:
    draws = np.random.default_rng([client, step])
    tokens = tokens or int(draws.integers(6, 14))
    real = np.arange(tokens) < np.array([tokens] + [tokens - 2] * (rows - 1))[:, None]
    labels = real & (np.arange(tokens) >= draws.integers(0, 3, size=(rows, 1)))
    return Batch(draws.integers(3, 96, size=(rows, tokens)), real, labels)


def one_by_one(
    model: Any, starts: Any, batches: Any, settings: Any, carried: Any, **extra: Any
) -> Any:
    return [
        train_locally(model, start, own, settings, (0, 0, client), dict(kept), **extra)
        for client, (start, own, kept) in enumerate(zip(starts, batches, carried, strict=True))
    ]


def assert_same(
    found: list[LocalResult], expected: list[LocalResult], starts: list[AdapterState], rate: float
) -> None:
    """After one step of SGD."""
    for one, other, start in zip(found, expected, starts, strict=True):
        assert one.label_tokens == other.label_tokens
        assert one.losses == pytest.approx(other.losses, rel=1e-5)
        assert_same_sgd_step(one.state, other.state, start, rate)
        assert one.carried == other.carried == {}


def assert_same_adam(
    found: list[LocalResult], expected: list[LocalResult], starts: list[AdapterState], names: Any
) -> None:
    """After one step of AdamW: the moments, and states that are where their moments lead."""
    for one, other, start in zip(found, expected, starts, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-5)
        assert_same_moments(one.carried, other.carried)
        for result in (one, other):
            moments = by_name(result.carried, list(names))
            assert_adam_step(start, result.state, moments, ADAMW.learning_rate)


def case(model: Any, clients: int = 5, steps: int = 1) -> tuple[Any, Any, Any]:
    starts = [start_of(model, client) for client in range(clients)]
    batches = [[batch_of(c, step) for step in range(steps)] for c in range(clients)]
    return starts, batches, [{}] * clients


@pytest.mark.parametrize("family", CONFIGS)
def test_a_stack_is_its_clients(family: str) -> None:
    model = adapted(family)
    starts, batches, carried = case(model)
    expected = one_by_one(model, starts, batches, SETTINGS, carried)
    found = train_stacked(model, starts, batches, SETTINGS, carried)
    assert_same(found, expected, starts, SETTINGS.learning_rate)
    expected = one_by_one(model, starts, batches, ADAMW, carried)
    found = train_stacked(model, starts, batches, ADAMW, carried)
    assert_same_adam(found, expected, starts, read_state(model))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_steps_of_a_stack_follow_one_another(family: str) -> None:
    """Three steps are three times one step, to the bit: the same products of the same shapes."""
    model = adapted(family)
    starts, batches, carried = case(model, steps=3)
    whole = train_stacked(model, starts, batches, ADAMW, carried)
    results: list[LocalResult] = []
    for step in range(3):
        now = [own[step : step + 1] for own in batches]
        results = train_stacked(model, starts, now, ADAMW, carried)
        starts, carried = [r.state for r in results], [r.carried for r in results]
        assert [r.losses[0] for r in results] == [r.losses[step] for r in whole]
    for one, other in zip(results, whole, strict=True):
        assert all(torch.equal(one.state[name], value) for name, value in other.state.items())
        assert all(torch.equal(one.carried[key], value) for key, value in other.carried.items())


@pytest.mark.parametrize("limit", [1, 30, 60, 10_000])
def test_any_number_of_passes(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("llama")
    starts, batches, carried = case(model, clients=6)
    expected = one_by_one(model, starts, batches, SETTINGS, carried)
    monkeypatch.setitem(label_loss.TOKENS_AT_ONCE, "cpu", limit)
    found = train_stacked(model, starts, batches, SETTINGS, carried)
    assert_same(found, expected, starts, SETTINGS.learning_rate)


def test_each_client_is_clipped_by_its_own_norm() -> None:
    model = adapted("gpt2")
    starts, batches, carried = case(model)
    starts[2] = {name: 8.0 * value for name, value in starts[2].items()}
    settings = TrainingSettings("sgd", learning_rate=0.1, max_grad_norm=0.3)
    expected = one_by_one(model, starts, batches, settings, carried)
    loose = one_by_one(
        model, starts, batches, TrainingSettings("sgd", 0.1, max_grad_norm=0.0), carried
    )
    name = next(iter(starts[0]))
    assert not torch.allclose(loose[2].state[name], expected[2].state[name])
    found = train_stacked(model, starts, batches, settings, carried)
    assert_same(found, expected, starts, 0.1)


def test_moments_are_each_clients_own() -> None:
    """One client is new, one has two steps behind it, one has four."""
    model = adapted("llama")
    starts, batches, carried = case(model, clients=3)
    carried = [{}, {}, {}]
    for client, rounds in ((1, 1), (2, 2)):
        for turn in range(rounds):
            earlier = [batch_of(client, 10 + 2 * turn + step) for step in range(2)]
            result = train_locally(
                model, starts[client], earlier, ADAMW, (0, 0, 0), carried[client]
            )
            starts[client], carried[client] = result.state, result.carried
    expected = one_by_one(model, starts, batches, ADAMW, carried)
    found = train_stacked(model, starts, batches, ADAMW, carried)
    assert_same_adam(found, expected, starts, read_state(model))
    assert [float(result.carried["0.step"]) for result in found] == [1.0, 3.0, 5.0]
    assert train_stacked(model, starts, batches, SETTINGS, carried)[0].carried == {}


def test_a_penalty_is_each_clients_own() -> None:
    model = adapted("qwen2")
    starts, batches, carried = case(model)
    penalty = OrthogonalityPenalty(3.0)
    expected = one_by_one(model, starts, batches, SETTINGS, carried, penalty=penalty)
    without = one_by_one(model, starts, batches, SETTINGS, carried)
    name = next(iter(starts[0]))
    assert not torch.allclose(without[0].state[name], expected[0].state[name], atol=1e-3)
    found = train_stacked(model, starts, batches, SETTINGS, carried, penalty)
    assert_same(found, expected, starts, SETTINGS.learning_rate)


def test_batches_of_different_rows() -> None:
    model = adapted("llama")
    starts, _, carried = case(model, clients=3)
    batches = [[batch_of(client, 0, rows=client + 1)] for client in range(3)]
    expected = one_by_one(model, starts, batches, SETTINGS, carried)
    found = train_stacked(model, starts, batches, SETTINGS, carried)
    assert_same(found, expected, starts, SETTINGS.learning_rate)


def test_only_some_matrices_adapted() -> None:
    model = adapted("llama", target_modules=("v_proj", "down_proj"))
    starts, batches, carried = case(model)
    expected = one_by_one(model, starts, batches, SETTINGS, carried)
    found = train_stacked(model, starts, batches, SETTINGS, carried)
    assert_same(found, expected, starts, SETTINGS.learning_rate)


def test_a_bf16_base_agrees_as_far_as_bf16_goes() -> None:
    base = small_model("llama").to(torch.bfloat16)
    model = attach(BaseModel(base, None, "random"), AdapterSettings(rank=3))
    starts, batches, carried = case(model)
    settings = TrainingSettings("sgd", learning_rate=0.1)
    expected = one_by_one(model, starts, batches, settings, carried)
    found = train_stacked(model, starts, batches, settings, carried)
    for one, other in zip(found, expected, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-2)
        for name, value in other.state.items():
            assert one.state[name].dtype == torch.float32
            torch.testing.assert_close(one.state[name], value, rtol=0, atol=5e-3)


def test_the_model_is_left_as_it_was() -> None:
    model = adapted("gpt2")
    before, modules = read_state(model), dict(model.named_modules())
    starts, batches, carried = case(model)
    train_stacked(model, starts, batches, SETTINGS, carried)
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(value, before[name]) for name, value in read_state(model).items())
    with pytest.raises(ZeroDivisionError), stacked_layers(model) as layers:
        assert isinstance(model.get_submodule(next(iter(layers))), StackedLinear)
        raise ZeroDivisionError
    assert dict(model.named_modules()) == modules
    with pytest.raises(InputError, match="use the same rank"):
        name = next(iter(starts[0]))
        train_stacked(model, [{**starts[0], name: torch.zeros(9, 9)}], batches[:1], SETTINGS, [{}])


def test_what_cannot_be_stacked_says_why() -> None:
    assert refuses_stacking(adapted("gpt2")) == ""
    assert refuses_stacking(adapted("llama", dropout=0.1)) == "adapter.dropout is above 0"
    odd = adapted("llama", target_modules=("q_proj", "embed_tokens"))
    assert "embed_tokens" in refuses_stacking(odd)


def wide(*tokens: int) -> list[Batch]:
    return [batch_of(0, 0, rows=2, tokens=n) for n in tokens]


def test_passes_hold_about_the_limit() -> None:
    assert passes(wide(10, 10, 10), 60) == [[0, 1, 2]]
    assert passes(wide(10, 10, 10, 10), 60) == [[0, 1], [2, 3]]
    assert passes(wide(10, 40), 20) == [[0], [1]]
    # Padded in order: 2 x 40 + 2 x 40; like with like: 2 x 10 + 2 x 40.
    assert passes(wide(10, 40, 10, 40), 160) == [[0, 2], [1, 3]]
    # Nothing to gain: neighbours stay together.
    assert passes(wide(40, 39, 40, 39), 160) == [[0, 1], [2, 3]]


def test_stacked_gradients_against_finite_differences() -> None:
    draws = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(4, 3).double().requires_grad_(False)
    stacked = StackedLinear(layer, 0.7)
    shapes = [(4, 5, 4), (2, 2, 4), (2, 3, 2)]
    inputs = [torch.randn(s, generator=draws, dtype=torch.float64).requires_grad_() for s in shapes]

    def run(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        stacked.lora_a, stacked.lora_b = a, b
        output: Tensor = stacked(x)
        return output

    assert torch.autograd.gradcheck(run, inputs)
    expected = [layer(inputs[0][2 * c : 2 * c + 2]) for c in range(2)]
    expected = [
        y + 0.7 * inputs[0][2 * c : 2 * c + 2] @ inputs[1][c].T @ inputs[2][c].T
        for c, y in enumerate(expected)
    ]
    torch.testing.assert_close(run(*inputs), torch.cat(expected))


def jobs_of(model: Any, ranks: tuple[int, ...], settings: TrainingSettings) -> list[TuningJob]:
    start = start_of(model, 0)
    return [
        TuningJob(
            start,
            ClientPlan(client, 1.0, 1.0, rank=rank),
            TuningContext(model, [batch_of(client, 0)], settings, 0, 0, {}),
        )
        for client, rank in enumerate(ranks)
    ]


@pytest.mark.parametrize(
    "tuner",
    [
        FullTuner(),
        OrthogonalTuner(3.0),
        FirstRanksTuner(),
        FeedbackTuner(OrthogonalTuner(3.0), DenseCodec("bf16")),
    ],
    ids=lambda tuner: type(tuner).__name__,
)
def test_tuners_that_stack(tuner: Tuner) -> None:
    """Clients of ranks 1, 3 and 2 of an adapter of rank 3 (only HetLoRA minds)."""
    model = adapted("llama")
    settings = TrainingSettings("sgd", 0.1, keep_optimizer=True)
    jobs = jobs_of(model, (1, 3, 2), settings)
    keys = {tuner.stackable(job.plan, job.context) for job in jobs}
    assert len(keys) == 1
    assert None not in keys
    expected = [tuner.tune(job.start, job.plan, job.context) for job in jobs]
    for one, other, job in zip(tuner.tune_stack(jobs), expected, jobs, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-5)
        assert_same_sgd_step(one.state, other.state, job.start, settings.learning_rate)
        # What error feedback keeps is the bf16 rounding of a change, which falls by its last bits.
        assert one.carried.keys() == other.carried.keys()
        for key, value in other.carried.items():
            change = (other.state[key.partition("/")[2]] - job.start[key.partition("/")[2]]).abs()
            assert float((one.carried[key] - value).abs().max()) <= 2**-7 * float(change.max())
    for job, result in zip(jobs, expected, strict=True):
        for pair in factor_pairs(job.start):
            beyond = result.state[pair.lora_a][job.plan.rank :]
            same = torch.equal(beyond, job.start[pair.lora_a][job.plan.rank :])
            assert same == (isinstance(tuner, FirstRanksTuner) or job.plan.rank == 3)


class OwnTuner(Tuner):
    """Knows nothing of stacks."""

    def tune(self, start: AdapterState, plan: ClientPlan, context: TuningContext) -> LocalResult:
        return LocalResult(start, (float(plan.client),), 1)


def test_a_tuner_that_knows_no_stacks_is_asked_one_by_one() -> None:
    jobs = jobs_of(adapted("llama"), (1, 2), SETTINGS)
    assert OwnTuner().stackable(jobs[0].plan, jobs[0].context) is None
    assert [result.losses for result in OwnTuner().tune_stack(jobs)] == [(0.0,), (1.0,)]
