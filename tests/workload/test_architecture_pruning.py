"""What a pruning rate removes, and that counts of a pruned model are those of the real slice."""

from collections.abc import Callable
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    Phi3Config,
    Qwen3Config,
    SmolLM3Config,
)

from airtune.errors import InputError
from airtune.workload.adapter_shape import AdapterShape, adapter_tensors
from airtune.workload.architecture import (
    Architecture,
    attention_units,
    pruned,
    pruned_widths,
    prunes_groups,
    removed_units,
)
from airtune.workload.block import Widths
from airtune.workload.decisions import affine_flops, affine_update_bits, rate_that_fits
from airtune.workload.payload import update_bits
from airtune.workload.step import Step
from airtune.workload.transformer import workload
from tests.workload.small_models import CONFIGS, architecture, measured_flops, published

STEP = Step(batch_size=2, tokens=16)


@given(rate=st.floats(0, 0.999), units=st.integers(1, 4096))
def test_rounded_down_and_one_stays(rate: float, units: int) -> None:
    removed = removed_units(rate, units)
    assert 0 <= removed <= units - 1
    assert removed <= rate * units + 1e-8
    assert removed >= min(floor(rate * units), units - 1)


@given(units=st.integers(1, 30_000), data=st.data())
def test_rates_made_from_units_remove_them(units: int, data: st.DataObject) -> None:
    removed = data.draw(st.integers(0, units - 1))
    assert removed_units(removed / units, units) == removed


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_rates_that_are_none_are_refused(rate: float) -> None:
    with pytest.raises(InputError, match="pruning_rate"):
        removed_units(rate, 8)


def test_units_are_groups_or_heads_within_groups() -> None:
    groups = Widths(hidden=64, embedding=64, heads=16, kv_heads=4, head_dim=8, neurons=10)
    assert prunes_groups(groups)
    assert attention_units(groups) == 4
    kept = pruned_widths(groups, 0.3)
    assert (kept.heads, kept.kv_heads, kept.neurons) == (12, 3, 7)

    heads = Widths(hidden=64, embedding=64, heads=14, kv_heads=2, head_dim=8, neurons=10)
    assert not prunes_groups(heads)
    assert attention_units(heads) == 7
    kept = pruned_widths(heads, 0.3)
    assert (kept.heads, kept.kv_heads, kept.neurons) == (10, 2, 7)


def test_rate_zero_changes_nothing_and_high_rates_keep_one() -> None:
    widths = published("llama-3.1-8b").widths
    assert pruned_widths(widths, 0.0) == widths
    kept = pruned_widths(widths, 0.9999)
    assert (kept.heads, kept.kv_heads, kept.neurons) == (4, 1, 2)


# Configs of the slice itself, which transformers can build where head_dim is free.
_SLICED = {
    ("llama", 0.25): lambda c: LlamaConfig(
        **{**c, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 168}
    ),
    ("qwen3", 0.5): lambda c: Qwen3Config(
        **{**c, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 112}
    ),
    ("gemma2", 0.25): lambda c: Gemma2Config(
        **{**c, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 168}
    ),
    ("gemma3_text", 0.5): lambda c: Gemma3TextConfig(
        **{**c, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 112}
    ),
    ("granite", 0.25): lambda c: GraniteConfig(
        **{**c, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 168}
    ),
    ("smollm3", 0.5): lambda c: SmolLM3Config(
        **{**c, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 112}
    ),
    # One query head of two stays in each of three groups.
    ("phi3", 0.5): lambda c: Phi3Config(
        **{**c, "head_dim": 16, "num_attention_heads": 3, "intermediate_size": 112}
    ),
    ("gemma", 0.76): lambda c: GemmaConfig(
        **{**c, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 54}
    ),
}


@pytest.mark.parametrize(("name", "rate"), _SLICED)
def test_counts_are_those_of_the_sliced_model(
    name: str, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = AdapterShape(8)
    counted = workload(architecture(name), adapter, STEP, rate)
    config = {k: v for k, v in CONFIGS[name]().to_dict().items() if k != "model_type"}
    sliced = _SLICED[name, rate](config)
    assert pruned(architecture(name), rate) == Architecture.from_config(sliced.to_dict())
    monkeypatch.setitem(CONFIGS, f"sliced {name}", lambda: sliced)
    assert (counted.forward_flops, counted.backward_flops) == measured_flops(
        f"sliced {name}", adapter, STEP
    )


PRUNABLE = [name for name in CONFIGS if not architecture(name).structure.unprunable]


@pytest.mark.parametrize("name", PRUNABLE)
def test_residual_factors_never_shrink(name: str) -> None:
    model, adapter = architecture(name), AdapterShape(4)
    whole, kept = (adapter_tensors(m, adapter) for m in (model, pruned(model, 0.6)))
    writers = ("o_proj", "out_proj", "dense", "down_proj", "fc2", "c_proj")
    for key, shape in whole.items():
        *_, module, factor, _ = key.split(".")
        residual = factor == ("lora_B" if module in writers else "lora_A")
        # Below four groups keys and values stay whole, and OPT-350m's projections always do.
        whole_groups = module in ("k_proj", "v_proj") and not prunes_groups(model.widths)
        assert (kept[key] == shape) == (residual or whole_groups or "project" in module), key


def test_prunable_share_of_known_adapters() -> None:
    """Three quarters of a GPT-2 adapter, 61 to 65 % of an all-linear Llama adapter."""

    def share(name: str) -> float:
        model, adapter = published(name), AdapterShape(8)
        bits = affine_update_bits(model, adapter)
        return bits.prunable / (bits.fixed + bits.prunable)

    assert share("gpt2") == pytest.approx(0.75, abs=1e-4)
    assert 0.61 <= share("llama-3.1-8b") <= 0.65
    assert 0.61 <= share("llama-2-7b") <= 0.65


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("olmo2", "queries and keys are normalised over all heads"),
        ("qwen3_moe", "its MLPs are experts"),
    ],
)
def test_families_that_cannot_be_pruned_say_why(name: str, reason: str) -> None:
    model, adapter = architecture(name), AdapterShape(4)
    sentence = f"model is {name}, but it must be one of whose blocks heads and neurons .*{reason}"
    assert pruned(model, 0.0) == model
    refused: list[Callable[[], object]] = [
        lambda: pruned(model, 0.5),
        lambda: workload(model, adapter, STEP, 0.5),
        lambda: update_bits(model, adapter, pruning_rate=0.5),
        lambda: affine_flops(model, adapter, STEP),
        lambda: affine_update_bits(model, adapter),
        lambda: rate_that_fits(model, adapter, STEP, 1e12),
    ]
    for question in refused:
        with pytest.raises(InputError, match=sentence):
            question()
