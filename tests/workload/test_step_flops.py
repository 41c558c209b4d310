"""Counted operations against torch's own counter: equal, not merely within 2 %."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.errors import InputError
from airtune.workload.adapter_shape import AdapterShape, adapter_parameters
from airtune.workload.architecture import load_architecture
from airtune.workload.step import Step
from airtune.workload.transformer import total_flops, workload
from tests.workload.small_models import CONFIGS, architecture, measured_flops, with_adapter

STEP = Step(batch_size=3, tokens=20)


@pytest.mark.parametrize("rank", [1, 8, 64])
@pytest.mark.parametrize("name", CONFIGS)
def test_equals_torch(name: str, rank: int) -> None:
    adapter = AdapterShape(rank)
    counted = workload(architecture(name), adapter, STEP)
    assert (counted.forward_flops, counted.backward_flops) == measured_flops(name, adapter, STEP)


# In the lowest block, what gets a gradient depends on which matrix is adapted.
TARGETS = [
    ("q_proj",),
    ("k_proj",),
    ("v_proj",),
    ("q_proj", "v_proj"),
    ("out_proj", "o_proj", "dense"),
    ("gate_proj", "fc1"),
    ("up_proj", "fc1"),
    ("down_proj", "fc2"),
    ("qkv_proj",),
    ("gate_up_proj",),
]


def _own_names(name: str, targets: tuple[str, ...]) -> tuple[str, ...]:
    linears = architecture(name).structure.linears
    return tuple(
        t for t in targets if any(f".{linear.name}".endswith(f".{t}") for linear in linears)
    )


@pytest.mark.parametrize("targets", TARGETS, ids="+".join)
@pytest.mark.parametrize(
    "name", ["opt", "opt-350m", "llama", "phi", "gemma2", "phi3", "olmo2", "qwen3_moe"]
)
def test_equals_torch_for_chosen_targets(name: str, targets: tuple[str, ...]) -> None:
    own = _own_names(name, targets)
    if not own:
        pytest.skip("the family has no such matrix")
    adapter = AdapterShape(4, own)
    counted = workload(architecture(name), adapter, STEP)
    assert (counted.forward_flops, counted.backward_flops) == measured_flops(name, adapter, STEP)


UNEVEN = {
    "llama": [
        AdapterShape(4, ("layers.1.self_attn.v_proj", "layers.1.mlp.up_proj")),
        AdapterShape(4, ("layers.1.self_attn.q_proj", "layers.2.mlp.down_proj")),
        AdapterShape(4, "all-linear", (("q_proj", 2), ("layers.2.mlp.down_proj", 16))),
    ],
    "opt-350m": [
        AdapterShape(4, ("layers.1.self_attn.v_proj", "layers.2.fc1", "project_out")),
        AdapterShape(4, "all-linear", (("project_in", 2), ("layers.0.fc2", 16))),
    ],
}


@pytest.mark.parametrize(
    ("name", "adapter"), [(name, adapter) for name in UNEVEN for adapter in UNEVEN[name]]
)
def test_equals_torch_where_blocks_differ(name: str, adapter: AdapterShape) -> None:
    model = architecture(name)
    counted = workload(model, adapter, STEP)
    assert (counted.forward_flops, counted.backward_flops) == measured_flops(name, adapter, STEP)
    assert total_flops(model, adapter.adaptation(model), STEP) == counted.flops
    trained = sum(p.numel() for p in with_adapter(name, adapter).parameters() if p.requires_grad)
    assert counted.adapter_parameters == trained == adapter_parameters(model, adapter)


@pytest.mark.parametrize("targets", [("c_attn",), ("c_proj",), ("mlp.c_proj",), ("c_fc",)])
def test_equals_torch_for_chosen_targets_of_gpt2(targets: tuple[str, ...]) -> None:
    adapter = AdapterShape(4, targets)
    counted = workload(architecture("gpt2"), adapter, STEP)
    assert (counted.forward_flops, counted.backward_flops) == measured_flops("gpt2", adapter, STEP)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj",), ("down_proj", "fc2", "c_proj")])
@pytest.mark.parametrize("name", ["gpt2", "opt-350m", "llama", "phi"])
def test_equals_torch_with_a_frozen(name: str, targets: str | tuple[str, ...]) -> None:
    """FFA-LoRA: B alone is trained, so A has no gradient, nor has A x in the lowest matrix."""
    own = targets if isinstance(targets, str) else _own_names(name, targets)
    if not own:
        pytest.skip("the family has no such matrix")
    adapter = AdapterShape(4, own, frozen_a=True)
    counted = workload(architecture(name), adapter, STEP)
    measured = measured_flops(name, adapter, STEP)
    assert (counted.forward_flops, counted.backward_flops) == measured


@pytest.mark.parametrize("name", ["gpt2", "opt-350m", "gemma"])
def test_fewer_logits(name: str) -> None:
    step = Step(batch_size=2, tokens=20, logit_positions=7)
    adapter = AdapterShape(8)
    counted = workload(architecture(name), adapter, step)
    assert (counted.forward_flops, counted.backward_flops) == measured_flops(name, adapter, step)


def test_published_rule_of_thumb() -> None:
    """Forward is near 2 N per token and backward with a frozen base as much again, not twice."""
    model = load_architecture("llama-3.1-8b")
    counted = workload(model, AdapterShape(8), Step(1, 128))
    matrices = counted.parameters - counted.parts[0].parameters
    assert counted.forward_flops == pytest.approx(2 * matrices * 128, rel=0.02)
    assert counted.backward_flops == pytest.approx(counted.forward_flops, rel=0.02)


@given(
    batch=st.integers(1, 64),
    tokens=st.integers(1, 512),
    rank=st.integers(1, 64),
    name=st.sampled_from(["gpt2", "llama-3.2-1b", "phi-2"]),
)
def test_shape_of_the_count(batch: int, tokens: int, rank: int, name: str) -> None:
    model = load_architecture(name)
    one = workload(model, AdapterShape(rank), Step(1, tokens))
    many = workload(model, AdapterShape(rank), Step(batch, tokens))
    assert many.flops == batch * one.flops
    # Affine in the rank, quadratic in tokens without a cubic term.
    ranks = [workload(model, AdapterShape(r), Step(1, tokens)).flops for r in (1, 2, rank)]
    assert ranks[2] == ranks[0] + (rank - 1) * (ranks[1] - ranks[0])
    lengths = [workload(model, AdapterShape(rank), Step(1, t)).flops for t in range(1, 5)]
    assert lengths[3] - 3 * lengths[2] + 3 * lengths[1] - lengths[0] == 0
    assert one.parts[1].backward_flops < one.parts[2].backward_flops


def test_lengths_beyond_the_model_are_refused() -> None:
    with pytest.raises(InputError, match="tokens is 1025, but it must be at most 1024"):
        workload(load_architecture("gpt2"), AdapterShape(8), Step(1, 1025))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((0, 8), "batch_size"),
        ((1, 0), "tokens"),
        ((1, 2.5), "tokens"),
        ((1, 8, 9), "logit_pos"),
        ((1, 8, 0), "logit_positions"),
    ],
)
def test_steps_that_are_none_are_refused(arguments: tuple[int, ...], field: str) -> None:
    with pytest.raises(InputError, match=field):
        Step(*arguments)
