"""FLOPs of any length, interpolated from three, against the count of that length itself."""

import pytest

from airtune.workload.adapter_shape import ALL_LINEAR, AdapterShape, EveryParameter, Trained
from airtune.workload.architecture import load_architecture
from airtune.workload.config_source import bundled_names
from airtune.workload.decisions import affine_flops, training_flops
from airtune.workload.model_work import ModelWork
from airtune.workload.precision import Precision
from airtune.workload.step import Step
from airtune.workload.transformer import workload

ATTENTION = ("q_proj", "v_proj")
NAMES = ("gpt2", "llama-3.2-1b", "opt-350m", "gemma-2-2b", "phi-3-mini", "mistral-7b")
STEPS = (Step(1, 1, label_tokens=1), Step(2, 3, label_tokens=2), Step(3, 577, label_tokens=41))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("trained", [AdapterShape(8), EveryParameter()], ids=["lora", "all"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_steps_of_any_length(name: str, trained: Trained, checkpointing: bool) -> None:
    precision = Precision(checkpointing=checkpointing)
    architecture = load_architecture(name)
    work = ModelWork(architecture, trained, precision)
    for step in STEPS:
        counted = step if isinstance(trained, AdapterShape) else Step(step.batch_size, step.tokens)
        whole = workload(architecture, trained, counted, precision=precision).flops
        assert work.step_flops(step) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", bundled_names())
def test_every_bundled_model(name: str) -> None:
    """Windows, experts and caps included: FLOPs are a polynomial of degree 2 in the tokens."""
    architecture = load_architecture(name)
    adapter = AdapterShape(8, ATTENTION if "moe" in architecture.family else ALL_LINEAR)
    work = ModelWork(architecture, adapter, Precision())
    for tokens in (4, 7, 128, min(5000, architecture.max_tokens)):
        step = Step(2, tokens, label_tokens=5)
        assert work.step_flops(step) == pytest.approx(
            workload(architecture, adapter, step).flops, rel=1e-12
        )


@pytest.mark.parametrize("name", NAMES)
def test_pruned_and_lower_ranks_of_any_length(name: str) -> None:
    architecture, step = load_architecture(name), STEPS[-1]
    work = ModelWork(architecture, AdapterShape(8), Precision())
    pruned = workload(architecture, AdapterShape(8), step, 0.25).flops
    assert work.step_flops(step, 0.25) == pytest.approx(pruned, rel=1e-12)
    ranks = workload(architecture, AdapterShape(8).at_most(3), step).flops
    assert work.step_flops(step, rank=3) == pytest.approx(ranks, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_of_a_cut(name: str) -> None:
    """They add up to the whole step, and the client's half has the blocks before the cut."""
    architecture, step = load_architecture(name), STEPS[-1]
    work = ModelWork(architecture, AdapterShape(8), Precision())
    whole = workload(architecture, AdapterShape(8), step)
    for point in (1, architecture.block_count - 1):
        flops = work.split_flops(step, point)
        assert sum(vars(flops).values()) == pytest.approx(whole.flops, rel=1e-12)
        client = sum(part.forward_flops for part in whole.parts[: point + 1])
        assert flops.client_forward == pytest.approx(client, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_prunable_part_of_any_length(name: str, checkpointing: bool) -> None:
    """To the last operation; and FLOPs without bookkeeping are those of the parts."""
    architecture, adapter = load_architecture(name), AdapterShape(8)
    precision = Precision(checkpointing=checkpointing)
    work = ModelWork(architecture, adapter, precision)
    for tokens in (1, 2, 4, 7, 128):
        step = Step(2, tokens)
        counted = affine_flops(architecture, adapter, step, checkpointing)
        assert work.affine_flops(step)[1] == counted.prunable
        for rate in (0.0, 0.3):
            whole = workload(architecture, adapter, step, rate, precision).flops
            assert training_flops(architecture, adapter, step, rate, precision) == whole
