"""Families added later against torch at several shapes, ranks and kinds of training; experts and
windows by hand."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from airtune.workload.adapter_shape import AdapterShape, EveryParameter, adapter_parameters
from airtune.workload.architecture import Architecture, load_architecture
from airtune.workload.step import Step
from airtune.workload.transformer import split_workload, workload
from tests.workload.small_models import (
    CONFIGS,
    architecture,
    base_model,
    batch,
    measured_flops,
    with_adapter,
)

FAMILIES = [
    "gemma2",
    "gemma3_text",
    "phi3",
    "phi3-mini",
    "granite",
    "smollm3",
    "olmo2",
    "qwen3_moe",
]
STEPS = [Step(1, 7), Step(3, 20), Step(2, 33, logit_positions=5)]
RANKS = [1, 8, 40]


def adapters(name: str, rank: int) -> dict[str, AdapterShape]:
    """All matrices; queries and values; one block in the middle; B alone, of all and of one."""
    fused = name.startswith("phi3")
    some = ("qkv_proj",) if fused else ("q_proj", "v_proj")
    inside = ("self_attn.o_proj",) if name == "qwen3_moe" else ("mlp.down_proj", some[-1])
    middle = tuple(
        path
        for path in AdapterShape(1, inside).ranks(architecture(name))
        if path.startswith("model.layers.1.")
    )
    return {
        "all": AdapterShape(rank),
        "some": AdapterShape(rank, some),
        "one block": AdapterShape(rank, middle),
        "frozen A": AdapterShape(rank, frozen_a=True),
        "frozen A of some": AdapterShape(rank, some, frozen_a=True),
    }


@pytest.mark.parametrize("kind", list(adapters("gemma2", 1)))
@pytest.mark.parametrize("name", FAMILIES)
def test_equals_torch(name: str, kind: str) -> None:
    model = architecture(name)
    for rank in RANKS:
        adapter = adapters(name, rank)[kind]
        real = with_adapter(name, adapter).parameters()
        trained = sum(parameter.numel() for parameter in real if parameter.requires_grad)
        for step in STEPS:
            counted = workload(model, adapter, step)
            assert (counted.forward_flops, counted.backward_flops) == measured_flops(
                name, adapter, step
            )
            assert counted.adapter_parameters == trained
        assert adapter_parameters(model, adapter) >= trained


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_torch_with_every_parameter_trained(name: str) -> None:
    real = deepcopy(base_model(name)).requires_grad_(True)
    for step in STEPS:
        ids = batch(name, step)
        with FlopCounterMode(display=False) as forward:
            kept = step.logit_positions or 0
            logits = real(input_ids=ids, use_cache=False, logits_to_keep=kept).logits
        with FlopCounterMode(display=False) as backward:
            logits.float().logsumexp(-1).sum().backward()
        counted = workload(architecture(name), EveryParameter(), step)
        assert counted.forward_flops == forward.get_total_flops()
        assert counted.backward_flops == backward.get_total_flops()


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "smollm3", "phi3", "qwen3_moe"])
def test_a_window_saves_no_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager attention multiplies full score matrices and masks them, however short the window."""
    wide = CONFIGS[name]()
    changes: dict[str, Any] = {"sliding_window": 4, "use_sliding_window": True}
    if hasattr(wide, "layer_types"):
        changes["layer_types"] = ["full_attention", "sliding_attention", "sliding_attention"]
    config = {key: value for key, value in wide.to_dict().items() if key != "model_type"}
    narrow = type(wide)(**{**config, **changes})
    monkeypatch.setitem(CONFIGS, f"narrow {name}", lambda: narrow)
    adapter, step = AdapterShape(4), Step(2, 24)
    counted = workload(architecture(name), adapter, step)
    measured = measured_flops(f"narrow {name}", adapter, step)
    assert (counted.forward_flops, counted.backward_flops) == measured
    ids = batch(name, step)
    here, there = (base_model(n)(input_ids=ids).logits for n in (name, f"narrow {name}"))
    assert not torch.allclose(here, there), "the window is not in force"


def test_experts_by_hand() -> None:
    """2 of 6 experts for each of 60 tokens, 96 wide, 40 neurons: gate and up, down, router."""
    model, step, adapter = architecture("qwen3_moe"), Step(3, 20), AdapterShape(8, ("v_proj",))
    tokens, hidden, neurons = 60, 96, 40
    router = 2 * tokens * hidden * 6
    experts = 2 * (tokens * 2) * (hidden * 2 * neurons + neurons * hidden)
    query, key_value, heads_work = 128, 64, 2 * 3 * 20**2 * 128
    matrices = 2 * tokens * hidden * (2 * query + 2 * key_value)
    lora = 2 * tokens * 8 * (hidden + key_value)
    block = workload(model, adapter, step).parts[2]
    assert block.forward_flops == router + experts + matrices + lora + 2 * heads_work
    # Everything lies above the adapter of the block below; of lora also A's, B's and A x's.
    assert block.backward_flops == (
        router + experts + matrices + 4 * heads_work + 2 * tokens * 8 * 2 * (hidden + key_value)
    )
    held = 6 * 3 * hidden * neurons + 6 * hidden
    assert block.parameters == held + hidden * (2 * query + 2 * key_value) + 2 * hidden + 2 * 16


def test_idle_experts_are_held_but_not_computed() -> None:
    few = Architecture.from_config(CONFIGS["qwen3_moe"]().to_dict())
    many = Architecture.from_config({**CONFIGS["qwen3_moe"]().to_dict(), "num_local_experts": 12})
    step, adapter = Step(2, 10), AdapterShape(4)
    one, two = workload(few, adapter, step), workload(many, adapter, step)
    assert two.forward_flops - one.forward_flops == 3 * 2 * 20 * 96 * 6, "routers alone"
    assert two.parameters - one.parameters == 3 * 6 * (3 * 96 * 40 + 96)


def test_active_share_of_a_published_mixture() -> None:
    """Qwen3-30B-A3B: 30.5 B held, 3.3 B at work for a token, as its model card says."""
    model = load_architecture("qwen3-30b-a3b")
    work = workload(model, AdapterShape(1, ("q_proj",)), Step(1, 1))
    assert model.parameters == 30_532_122_624
    active = work.forward_flops / 2 + model.vocab_size * model.hidden_size
    assert active == pytest.approx(3.35e9, rel=0.01)


@pytest.mark.parametrize("name", FAMILIES)
def test_halves_add_up(name: str) -> None:
    model, adapter, step = architecture(name), AdapterShape(4), Step(2, 12)
    whole = workload(model, adapter, step)
    for cut in (1, 2):
        client, server = split_workload(model, adapter, step, cut)
        assert client.flops + server.flops == whole.flops
        table = model.tied * model.vocab_size * model.hidden_size
        assert client.parameters + server.parameters == whole.parameters + table
