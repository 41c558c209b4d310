"""Steps from two losses: the estimate against gradients, and what a step costs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from airtune.experiment.reading import read_config
from airtune.experiment.world import World, build_world
from airtune.round_plan import ClientPlan
from airtune.seeds import generator
from airtune.tuning import zeroth_order
from airtune.tuning.directions import CHUNK, DRAW_FLOPS, Directions
from airtune.tuning.local import LocalResult, TrainingSettings
from airtune.tuning.tuner import TuningContext
from airtune.tuning.zeroth_order import MOVES, ZerothOrderTuner
from airtune.update.codec import coordinates, flatten, shapes_of
from airtune.update.coefficients import CoefficientCodec
from tests.cli.conftest import quick
from tests.workload.small_models import batch, with_adapter
from tests.workload.test_step_memory import LiveBytes

PLAN = ClientPlan(client=3, bandwidth_hz=1e6, tx_power_w=0.2, rank=2)
SIZE = 6
PLAIN = TrainingSettings("sgd", learning_rate=1.0, keep_optimizer=False, max_grad_norm=0)


def world_of(*changes: str) -> World:
    return build_world(read_config(None, quick("method=fedkseed", *changes)[1::2]))


class Point(nn.Module):
    """A vector in fp64 that a loss looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))


def steps_of(
    monkeypatch: pytest.MonkeyPatch,
    loss: Callable[[torch.Tensor], torch.Tensor],
    steps: int,
    epsilon: float,
    rate: float = 1.0,
    seeds: int = 10**6,
) -> LocalResult:
    """A client's steps on this loss, from a point of ones."""
    monkeypatch.setattr(
        zeroth_order, "mean_loss", lambda model, batch, settings: (float(loss(model.w)), 1)
    )
    rows: list[Any] = [None] * steps
    context = TuningContext(Point(), rows, replace(PLAIN, learning_rate=rate), 5, 2, {})
    start = {"w": torch.ones(SIZE)}
    return ZerothOrderTuner(Directions(5, seeds), epsilon).tune(start, PLAN, context)


def direction(index: int, size: int = SIZE) -> np.ndarray:
    """z of the run, written anew."""
    return generator(5, "candidate direction", index).standard_normal(size, dtype=np.float32)


CURVATURE = torch.diag(torch.tensor([1.0, 2.0, 3.0, 0.5, 0.1, 4.0], dtype=torch.float64))
SLOPE = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, 0.3], dtype=torch.float64)


def test_mean_over_directions_is_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a quadratic, at any epsilon; `E |g z|^2 = (d + 2) |gradient|^2` of normal directions."""

    def loss(w: torch.Tensor) -> torch.Tensor:
        return 0.5 * w @ CURVATURE @ w + SLOPE @ w

    gradient = (CURVATURE @ torch.ones(SIZE, dtype=torch.float64) + SLOPE).numpy()
    # So slow that the point stays where it is.
    steps, rate = 4000, 1e-7
    result = steps_of(monkeypatch, loss, steps, epsilon=0.5, rate=rate)
    slopes = -result.coefficients["coefficient"].double().numpy() / rate
    drawn = np.stack([direction(int(index)) for index in result.coefficients["index"]])
    assert np.allclose(slopes, drawn @ gradient, rtol=1e-2, atol=1e-2)
    estimates = slopes[:, None] * drawn
    error = estimates.mean(axis=0) - gradient
    spread = estimates.std(axis=0) / np.sqrt(steps)
    assert (np.abs(error) < 4 * spread).all()
    squared = np.square(estimates).sum(axis=1).mean() / np.square(gradient).sum()
    assert squared == pytest.approx(SIZE + 2, rel=0.1)


def test_error_falls_with_the_square_of_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(w: torch.Tensor) -> torch.Tensor:
        return (w**3).sum() + SLOPE @ w

    gradient = (3 + SLOPE).numpy()
    errors = []
    for epsilon in (0.2, 0.1, 0.05):
        result = steps_of(monkeypatch, loss, 1, epsilon)
        (index,), (found,) = result.coefficients.values()
        z = direction(int(index)).astype(float)
        errors.append(-float(found) - z @ gradient)
        # d^3/dw^3 of the loss is 6: the error is eps^2 sum z^3.
        assert errors[-1] == pytest.approx(epsilon**2 * (z**3).sum(), rel=1e-2)
    assert errors[0] / errors[1] == pytest.approx(4, rel=1e-2)
    assert errors[1] / errors[2] == pytest.approx(4, rel=3e-2)


def test_steps_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step against plain code that never moves back: w - eta g z, a new g at each w."""

    def loss(w: torch.Tensor) -> torch.Tensor:
        return 0.5 * w @ CURVATURE @ w + torch.sin(w).sum()

    result = steps_of(monkeypatch, loss, 20, epsilon=1e-2, rate=0.02, seeds=3)
    w = np.ones(SIZE)
    taken = generator(5, "candidates of steps", 2, PLAN.client).integers(0, 3, 20)
    assert result.coefficients["index"].tolist() == taken.tolist()
    for index, found, before in zip(
        taken, result.coefficients["coefficient"], result.losses, strict=True
    ):
        z = direction(int(index)).astype(float)
        ends = [float(loss(torch.from_numpy(w + sign * 1e-2 * z))) for sign in (1, -1)]
        w -= 0.02 * (ends[0] - ends[1]) / 2e-2 * z
        assert float(found) == pytest.approx(-0.02 * (ends[0] - ends[1]) / 2e-2, rel=1e-5)
        assert before == pytest.approx(sum(ends) / 2, rel=1e-7)
    assert np.allclose(result.state["w"].numpy(), w, atol=1e-6)


def test_directions_do_not_depend_on_how_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, size = Directions(5, 9), 10_007
    whole = direction(4, size)
    assert np.array_equal(drawn.whole(4, size), whole)
    monkeypatch.setattr("airtune.tuning.directions.CHUNK", 64)
    assert np.array_equal(drawn.whole(4, size), whole)
    tensors = {"b": torch.zeros(9000), "a": torch.zeros(1007)}
    drawn.move(tensors, 4, 2.0)
    assert np.array_equal(torch.cat([tensors["a"], tensors["b"]]).numpy(), 2 * whole)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_coefficients_say_where_the_client_arrived(kind: str) -> None:
    """To the rounding of a way to and fro in fp32: 1e-6 where weights are about 1."""
    world = world_of(f"adapter.kind={kind}", "training.learning_rate=0.001", "fedkseed.seeds=5")
    context, start = world.context, dict(world.unmeasured_start().adapter)
    codec = context.method.codec
    assert isinstance(codec, CoefficientCodec)
    batches = [*world.side.batches(0, 0)] * 8
    training = replace(world.side.training, local_steps=8)
    tuning = TuningContext(world.model, batches, training, 0, 0, {})
    result = context.method.tuner.tune(start, PLAN, tuning)  # type: ignore[union-attr]
    codec = replace(codec, steps=8)
    payload = codec.encode(result.coefficients, PLAN)
    assert 8 * len(payload) == codec.payload_bits(shapes_of(start), PLAN)
    change = flatten(codec.decode(payload, shapes_of(start), PLAN))
    arrived = flatten(result.state) - flatten(start)
    assert arrived.abs().max() > 1e-3
    assert (arrived - change).abs().max() < 2e-6


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_two_forward_passes_a_step_are_charged_and_done(kind: str) -> None:
    world = world_of(f"adapter.kind={kind}", "training.local_steps=2")
    causal = world.model.get_base_model() if kind == "lora" else world.model
    causal.set_attn_implementation("eager")
    costs, method = world.context.costs, world.context.method
    steps = costs.facts.step_shapes(0, 0)
    tuning = TuningContext(world.model, world.side.batches(0, 0), world.side.training, 0, 0, {})
    with FlopCounterMode(display=False) as counter:
        method.tuner.tune(dict(world.unmeasured_start().adapter), PLAN, tuning)  # type: ignore
    numbers = coordinates(costs.shapes)
    charged = method.tuner.flops(PLAN, steps, costs.work)  # type: ignore[union-attr]
    beside = len(steps) * MOVES * (DRAW_FLOPS + 2) * numbers
    assert charged - beside == pytest.approx(counter.get_total_flops(), rel=1e-12)
    one = sum(costs.work.step_flops(step) for step in steps)
    assert charged - beside < one, "two forward passes are less than forward and backward"


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma"])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_memory_of_a_step(kind: str, name: str) -> None:
    """Everything that is alive in a step of the tuner, against what is charged."""
    from airtune.workload.adapter_shape import AdapterShape, EveryParameter
    from airtune.workload.model_work import ModelWork
    from airtune.workload.precision import Precision
    from airtune.workload.step import Step
    from tests.workload.small_models import architecture

    step, adapter = Step(batch_size=8, tokens=64), AdapterShape(8)
    model: Any = with_adapter(name, adapter, "sdpa", "float32")
    if kind == "full":
        model = model.unload().requires_grad_(True)
    work = ModelWork(
        architecture(name), adapter if kind == "lora" else EveryParameter(), Precision()
    )
    ids = batch(name, step)
    with LiveBytes() as memory, torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            memory.track(tensor)
        model(input_ids=ids, labels=ids, use_cache=False)
    assert memory.peak < work.inference_bytes(step) < 1.5 * memory.peak
    charged = ZerothOrderTuner(Directions(0, 9)).memory_bytes(PLAN, step, work)
    assert charged == work.inference_bytes(step) + 4 * min(CHUNK, work.trained_numbers())
    assert charged < 0.75 * work.step_bytes(step)
