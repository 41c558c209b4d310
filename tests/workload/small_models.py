"""Small random models of every family, made from transformers' own configs."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from airtune.tuning.adapter import linear_targets
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import Architecture, closed_form, load_architecture
from airtune.workload.step import Step

# Wide enough for rank 64, unequal where widths could be confused, head_dim not hidden / heads where
# a family allows it, and special tokens inside the small vocabulary.
_TOKENS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LLAMA: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 96,
    "intermediate_size": 224,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 80,
    **_TOKENS,
}
# Key and value width of 64, so that rank 64 fits everywhere.
_WIDE_HEADS = {**_LLAMA, "head_dim": 16}
_WINDOWS = {
    "sliding_window": 64,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
_FUSED = {**_LLAMA, "num_attention_heads": 6, "num_key_value_heads": 3}
_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
_OPT: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 96,
    "ffn_dim": 224,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "max_position_embeddings": 80,
    "dropout": 0.0,
    **_TOKENS,
}
_GPT2: dict[str, Any] = {
    "vocab_size": 211,
    "n_embd": 96,
    "n_layer": 3,
    "n_head": 8,
    "n_inner": 224,
    "n_positions": 80,
    "loss_type": "ForCausalLM",
    **_TOKENS,
}

CONFIGS: dict[str, Any] = {
    "gpt2": lambda: GPT2Config(**_GPT2),
    "opt": lambda: OPTConfig(word_embed_proj_dim=96, **_OPT),
    "opt-350m": lambda: OPTConfig(word_embed_proj_dim=72, do_layer_norm_before=False, **_OPT),
    "llama": lambda: LlamaConfig(**_WIDE_HEADS),
    "llama-biased": lambda: LlamaConfig(attention_bias=True, mlp_bias=True, **_WIDE_HEADS),
    "mistral": lambda: MistralConfig(**_WIDE_HEADS),
    "qwen2": lambda: Qwen2Config(**{**_LLAMA, "num_attention_heads": 6, "num_key_value_heads": 6}),
    "qwen3": lambda: Qwen3Config(**_WIDE_HEADS),
    "gemma": lambda: GemmaConfig(**{**_WIDE_HEADS, "head_dim": 64, "num_key_value_heads": 1}),
    "phi": lambda: PhiConfig(**{**_LLAMA, "num_key_value_heads": 8}),
    "phi-normed": lambda: PhiConfig(
        qk_layernorm=True, **{**_LLAMA, "num_attention_heads": 6, "num_key_value_heads": 6}
    ),
    "gemma2": lambda: Gemma2Config(**_WIDE_HEADS, **_WINDOWS),
    "gemma2-uncapped": lambda: Gemma2Config(
        attn_logit_softcapping=None, final_logit_softcapping=None, **_WIDE_HEADS, **_WINDOWS
    ),
    "gemma3_text": lambda: Gemma3TextConfig(**_WIDE_HEADS, **_WINDOWS),
    "gemma3-capped": lambda: Gemma3TextConfig(
        attention_bias=True, final_logit_softcapping=20.0, **_WIDE_HEADS, **_WINDOWS
    ),
    "phi3": lambda: Phi3Config(**_FUSED),
    "phi3-mini": lambda: Phi3Config(**{**_FUSED, "num_key_value_heads": 6}),
    "phi3-partial": lambda: Phi3Config(
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.75,
        },
        **_FUSED,
    ),
    "granite": lambda: GraniteConfig(
        embedding_multiplier=12.0,
        logits_scaling=8.0,
        residual_multiplier=0.22,
        attention_multiplier=0.0625,
        **_WIDE_HEADS,
    ),
    "granite-biased": lambda: GraniteConfig(attention_bias=True, mlp_bias=True, **_WIDE_HEADS),
    "smollm3": lambda: SmolLM3Config(no_rope_layers=[1, 0, 1], **_WIDE_HEADS),
    "olmo2": lambda: Olmo2Config(**_WIDE_HEADS),
    "qwen3_moe": lambda: Qwen3MoeConfig(**_WIDE_HEADS, **_EXPERTS),
}
"""One config per family, and the variants that change what is counted."""


def published(name: str) -> Architecture:
    """A bundled config of a family with a closed form."""
    return closed_form(load_architecture(name), "tested")


def architecture(name: str) -> Architecture:
    """What airtune reads from the config alone."""
    return Architecture.from_config(CONFIGS[name]().to_dict())


COUNTED_EXPERTS, DEFAULT_EXPERTS = "batched_mm", "grouped_mm"
"""How experts are multiplied: FlopCounterMode does not know transformers' default."""


@cache
def base_model(
    name: str, attention: str = "eager", dtype: str = "float32", experts: str = COUNTED_EXPERTS
) -> Any:
    """A random model in evaluation mode; shared by tests, so never trained.

    Attention is eager where transformers has nothing else for the family.
    """
    torch.manual_seed(0)
    config = CONFIGS[name]()
    structure = architecture(name).structure
    if structure.experts is not None:
        config._experts_implementation = experts
    model = AutoModelForCausalLM.from_config(
        config,
        attn_implementation="eager" if structure.eager_only else attention,
        dtype=getattr(torch, dtype),
    )
    return model.eval().requires_grad_(False)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """peft corrects fan_in_fan_out for GPT-2's Conv1D by itself, and warns that it did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def with_adapter(
    name: str,
    adapter: AdapterShape,
    attention: str = "eager",
    dtype: str = "float32",
    experts: str = COUNTED_EXPERTS,
) -> Any:
    """A fresh copy of the model under an fp32 PEFT adapter."""
    from copy import deepcopy

    from peft import LoraConfig, get_peft_model

    base = deepcopy(base_model(name, attention, dtype, experts))
    targets = linear_targets(base, adapter.target_modules)
    config = LoraConfig(
        r=adapter.rank,
        target_modules=targets if isinstance(targets, str) else list(targets),
        rank_pattern=dict(adapter.rank_pattern),
        task_type="CAUSAL_LM",
    )
    with quiet_peft():
        model = get_peft_model(base, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for parameter_name, parameter in model.named_parameters():
        if adapter.frozen_a and ".lora_A." in parameter_name:
            parameter.requires_grad_(False)
    return model.eval()


def batch(name: str, step: Step) -> torch.Tensor:
    """Random token ids [sequence, token]."""
    draws = torch.Generator().manual_seed(1)
    shape = (step.batch_size, step.tokens)
    return torch.randint(3, base_model(name).config.vocab_size, shape, generator=draws)


def measured_flops(name: str, adapter: AdapterShape, step: Step) -> tuple[int, int]:
    """Forward and backward operations as FlopCounterMode sees them, eager attention."""
    model, ids = with_adapter(name, adapter), batch(name, step)
    with FlopCounterMode(display=False) as forward:
        logits = model(
            input_ids=ids, use_cache=False, logits_to_keep=step.logit_positions or 0
        ).logits
    with FlopCounterMode(display=False) as backward:
        logits.float().logsumexp(-1).sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()
