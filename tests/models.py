"""Small random models of several families, for tests that need a real forward pass."""

from typing import Any

import torch

_SHARED = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_GATED = {
    **_SHARED,
    "intermediate_size": 48,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}

_SPECIAL = {**_GATED, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
"""Special tokens inside the small vocabulary."""

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _GATED,
    "qwen2": _GATED,
    "mistral": _GATED,
    "qwen3": {**_GATED, "head_dim": 16},
    "gemma": {**_GATED, "head_dim": 16},
    "phi": {**_SHARED, "intermediate_size": 48, "max_position_embeddings": 64},
    "opt": {
        **_SHARED,
        "ffn_dim": 48,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 32,
        "dropout": 0.0,
    },
    "gpt2": {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    # Caps and multipliers that change the numbers of models this small.
    "gemma2": {
        **_SPECIAL,
        "head_dim": 16,
        "sliding_window": 8,
        "query_pre_attn_scalar": 4,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 0.5,
    },
    "gemma3_text": {
        **_SPECIAL,
        "head_dim": 16,
        "sliding_window": 8,
        "sliding_window_pattern": 2,
        "final_logit_softcapping": 0.5,
    },
    "phi3": _SPECIAL,
    "granite": {
        **_SPECIAL,
        "embedding_multiplier": 12.0,
        "logits_scaling": 0.25,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.5,
    },
    "smollm3": {**_SPECIAL, "no_rope_layer_interval": 2},
    "olmo2": _SPECIAL,
    "qwen3_moe": {
        **_SPECIAL,
        "head_dim": 16,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
    },
}


def small_model(family: str, seed: int = 0, **overrides: Any) -> Any:
    """A random causal language model in evaluation mode, frozen, eager attention."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **{**CONFIGS[family], **overrides})
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    model.requires_grad_(False)
    return model.eval()
