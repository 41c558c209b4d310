"""Small random models of families without a closed form, by transformers' own config classes."""

from functools import cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

_WIDTHS: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_WIDTHS, "num_key_value_heads": 2}
_EXPERTS = {**_GROUPED, "num_experts_per_tok": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt_neo": {
        **_WIDTHS,
        "num_hidden_layers": 4,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 16,
    },
    "gpt_neox": _WIDTHS,
    "gptj": {**_WIDTHS, "rotary_dim": 8},
    "codegen": {**_WIDTHS, "rotary_dim": 8},
    "bloom": _WIDTHS,
    "falcon": _WIDTHS,
    "mpt": {
        "vocab_size": 2048,
        "d_model": 48,
        "n_layers": 3,
        "n_heads": 4,
        "expansion_ratio": 2,
        "max_seq_len": 128,
    },
    "stablelm": {**_GROUPED, "hidden_size": 64},
    "starcoder2": {**_GROUPED, "sliding_window": 16},
    "olmo": _GROUPED,
    "cohere": _GROUPED,
    "cohere2": {**_GROUPED, "sliding_window": 16},
    "glm": {**_GROUPED, "head_dim": 12},
    "nemotron": _GROUPED,
    "persimmon": _WIDTHS,
    "biogpt": _WIDTHS,
    "ernie4_5": {**_GROUPED, "head_dim": 12},
    "helium": {**_GROUPED, "head_dim": 12},
    "mixtral": {**_EXPERTS, "num_local_experts": 4},
    "olmoe": {**_EXPERTS, "num_experts": 4},
    "qwen2_moe": {
        **_EXPERTS,
        "num_experts": 4,
        "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 56,
    },
    "mamba": {
        "vocab_size": 2048,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "state_size": 8,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
}
"""By `model_type`: attention with and without windows, grouped heads, ALiBi, rotary positions,
fused and parallel blocks, experts, and no attention at all."""


def config_of(name: str) -> Any:
    """The config object."""
    return AutoConfig.for_model(name, **CONFIGS[name])


@cache
def random_model(name: str) -> Any:
    """Eager attention, and experts one after another, as torch's counter sees them all."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config_of(name), attn_implementation="eager", experts_implementation="eager"
    )
    return model.eval().requires_grad_(False)
