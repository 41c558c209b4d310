"""Adapters counted without torch are the tensors that PEFT makes."""

import pytest
from safetensors.torch import save

from airtune.errors import InputError
from airtune.tuning.adapter import linear_targets
from airtune.workload.adapter_shape import (
    AdapterShape,
    adapter_parameters,
    adapter_tensors,
)
from airtune.workload.architecture import load_architecture
from airtune.workload.payload import (
    flat_update_bits,
    rank_bits,
    saved_adapter_bytes,
    update_bits,
)
from tests.workload.small_models import CONFIGS, architecture, base_model, with_adapter

SOME = {"gpt2": ("c_attn", "mlp.c_proj"), "phi3": ("qkv_proj", "gate_up_proj")}


def _real_tensors(name: str, adapter: AdapterShape) -> dict[str, tuple[int, ...]]:
    return {
        key.replace(".default.", "."): tuple(parameter.shape)
        for key, parameter in with_adapter(name, adapter).named_parameters()
        if parameter.requires_grad
    }


@pytest.mark.parametrize("rank", [1, 64])
@pytest.mark.parametrize("targets", ["all-linear", "some"])
@pytest.mark.parametrize("name", CONFIGS)
def test_same_tensors_as_peft(name: str, targets: str, rank: int) -> None:
    some = SOME.get(name.partition("-")[0], ("q_proj", "v_proj"))
    adapter = AdapterShape(rank, "all-linear" if targets == "all-linear" else some)
    assert adapter_tensors(architecture(name), adapter) == _real_tensors(name, adapter)


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_size_is_the_real_file(name: str) -> None:
    adapter = AdapterShape(8)
    state = {
        key.replace(".default.", "."): parameter.detach()
        for key, parameter in with_adapter(name, adapter).named_parameters()
        if parameter.requires_grad
    }
    saved = save(state, metadata={"format": "pt"})
    assert saved_adapter_bytes(architecture(name), adapter) == len(saved)


def test_known_sizes() -> None:
    # r (in + out) by hand for GPT-2: c_attn 768+2304, c_proj 2x768, c_fc and mlp.c_proj 768+3072.
    assert adapter_parameters(load_architecture("gpt2"), AdapterShape(8)) == (
        12 * 8 * (3072 + 1536 + 3840 + 3840)
    )
    # Attention-only rank 8 on Llama-2 7B is the 4,194,304 of many tutorials (q and v).
    adapter = AdapterShape(8, ("q_proj", "v_proj"))
    assert adapter_parameters(load_architecture("llama-2-7b"), adapter) == 4_194_304


def test_blocks_add_up_to_the_whole() -> None:
    model, adapter = architecture("opt-350m"), AdapterShape(4)
    whole = adapter_parameters(model, adapter)
    halves = [adapter_parameters(model, adapter, blocks) for blocks in (range(1), range(1, 3))]
    assert sum(halves) == whole
    assert adapter_parameters(model, adapter, range(1, 2)) < min(halves)


def test_rank_bits() -> None:
    model, adapter = architecture("llama"), AdapterShape(8)
    bits = rank_bits(model, adapter, "bf16")
    assert len(bits) == 3 * 7
    assert bits["base_model.model.model.layers.0.self_attn.k_proj"] == 16 * (96 + 64)
    assert adapter.rank * sum(bits.values()) == 16 * adapter_parameters(model, adapter)


def test_update_bits() -> None:
    model, adapter = architecture("llama"), AdapterShape(8)
    assert update_bits(model, adapter, "fp16") == flat_update_bits(
        adapter_parameters(model, adapter), "fp16"
    )
    with pytest.raises(InputError, match="pruning_rate is 1"):
        update_bits(model, adapter, pruning_rate=1.0)


@pytest.mark.parametrize(
    ("rank", "targets", "message"),
    [
        (0, "all-linear", "at least 1"),
        (2.5, "all-linear", "at least 1"),
        (4, "q_proj", "a list of module names"),
        (4, (), "at least one module name"),
        (4, ("qproj",), "did you mean 'q_proj'?"),
        (4, ("attn.q_proj",), "did you mean 'self_attn.q_proj'?"),
        (4, ("lm_head",), "embedding and LM head cannot be adapted"),
        (65, "all-linear", "at most 64, the width of self_attn.k_proj"),
        (97, ("gate_proj",), "at most 96, the width of mlp.gate_proj"),
    ],
)
def test_refusals(rank: int, targets: str | tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AdapterShape(rank, targets).adaptation(architecture("llama"))


def test_experts_are_no_linear_layers() -> None:
    """Of a mixture LoRA adapts the matrices of attention; PEFT's own word would take the rest."""
    model = architecture("qwen3_moe")
    names = sorted({path.rpartition(".")[2] for path in AdapterShape(2).ranks(model)})
    assert names == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert sorted(linear_targets(base_model("qwen3_moe"), "all-linear")) == names
    for target in ("gate_proj", "down_proj", "experts", "mlp.gate"):
        with pytest.raises(InputError, match=r"\(experts, router, embedding and LM head cannot be"):
            AdapterShape(2, (target,)).ranks(model)


def test_a_rank_may_exceed_matrices_that_are_not_adapted() -> None:
    assert AdapterShape(96, ("gate_proj",)).adaptation(architecture("llama")).ranks == {
        ("mlp.gate_proj", 96)
    }
