"""How each supported model family builds its blocks, read from transformers' modelling files.

Defaults are those of transformers 5's config classes, because a config.json may omit them. Errors
about a config name the key.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from airtune.errors import InputError
from airtune.workload.block import (
    BEFORE_BOTH,
    Linear,
    Norm,
    NormKind,
    NormPlace,
    NormSpan,
    Role,
    Structure,
    Widths,
)
from airtune.workload.experts import Experts


@dataclass(frozen=True)
class ConfigFields:
    """A config.json's content. A default stands for the one that transformers' class has."""

    values: Mapping[str, Any]

    def count(self, *keys: str, default: int | None = None) -> int:
        """A positive whole number under the first of these keys that is present and not null."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                shown = f'"{value}"' if isinstance(value, str) else value
                raise InputError(f"config.{key}", shown, "a positive whole number")
            return value
        if default is None:
            raise InputError(
                f"config.{keys[0]}", "missing", "given", "use the model's complete config.json"
            )
        return default

    def flag(self, key: str, default: bool) -> bool:
        """A truth value; null means the default."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InputError(f"config.{key}", value, "true or false")
        return value

    def limit(self, key: str, default: float | None) -> float | None:
        """A positive number, or None for null: nothing is limited."""
        value = self.values.get(key, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise InputError(f"config.{key}", value, "a positive number, or null")
        return float(value)

    def text(self, *keys: str, default: str | None = None) -> str:
        """A string under the first of these keys that is present."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if not isinstance(value, str):
                raise InputError(f"config.{key}", value, "a string")
            return value
        if default is None:
            raise InputError(f"config.{keys[0]}", "missing", "given")
        return default


StructureReader = Callable[[ConfigFields, Widths], Structure]

_LAYER_NORM = Norm(NormKind.LAYER, 2)
_RMS_NORM = Norm(NormKind.RMS, 1)


def _gpt2(fields: ConfigFields, widths: Widths) -> Structure:
    """Conv1D matrices, query, key and value fused in one."""
    return Structure(
        linears=(
            Linear("attn.c_attn", Role.FUSED_QKV, bias=True),
            Linear("attn.c_proj", Role.OUTPUT, bias=True),
            Linear("mlp.c_fc", Role.UP, bias=True),
            Linear("mlp.c_proj", Role.DOWN, bias=True),
        ),
        norm=_LAYER_NORM,
        activation=fields.text("activation_function", default="gelu_new"),
        block_path="transformer.h",
        around_path="transformer",
        softmax_in_fp32=False,
    )


def _opt(fields: ConfigFields, widths: Widths) -> Structure:
    """Biases and affine norms are switches; OPT-350m projects a narrower token table."""
    bias = fields.flag("enable_bias", default=True)
    affine = fields.flag("layer_norm_elementwise_affine", default=True)
    before = fields.flag("do_layer_norm_before", default=True)
    removed = fields.flag("_remove_final_layer_norm", default=False)
    projected = widths.embedding != widths.hidden
    into = (Linear("project_in", Role.PROJECT_IN, bias=False),) if projected else ()
    out_of = (Linear("project_out", Role.PROJECT_OUT, bias=False),) if projected else ()
    return Structure(
        linears=(
            Linear("self_attn.q_proj", Role.QUERY, bias),
            Linear("self_attn.k_proj", Role.KEY, bias),
            Linear("self_attn.v_proj", Role.VALUE, bias),
            Linear("self_attn.out_proj", Role.OUTPUT, bias),
            Linear("fc1", Role.UP, bias),
            Linear("fc2", Role.DOWN, bias),
        ),
        norm=Norm(NormKind.LAYER, 2 if affine else 0),
        activation=fields.text("activation_function", default="relu"),
        block_path="model.decoder.layers",
        around_path="model.decoder",
        norms=BEFORE_BOTH if before else (NormPlace.ON_MIDDLE, NormPlace.ON_OUTPUT),
        final_norm=before and not removed,
        input_linears=into,
        output_linears=out_of,
    )


def _gated(
    fields: ConfigFields,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    activation: str = "silu",
) -> Structure:
    """The Llama block: RMS norms, separate projections, gated MLP."""
    return Structure(
        linears=(
            Linear("self_attn.q_proj", Role.QUERY, qkv_bias),
            Linear("self_attn.k_proj", Role.KEY, qkv_bias),
            Linear("self_attn.v_proj", Role.VALUE, qkv_bias),
            Linear("self_attn.o_proj", Role.OUTPUT, output_bias),
            Linear("mlp.gate_proj", Role.GATE, mlp_bias),
            Linear("mlp.up_proj", Role.UP, mlp_bias),
            Linear("mlp.down_proj", Role.DOWN, mlp_bias),
        ),
        norm=_RMS_NORM,
        activation=fields.text("hidden_act", "hidden_activation", default=activation),
        block_path="model.layers",
        around_path="model",
    )


def _llama(fields: ConfigFields, widths: Widths) -> Structure:
    """Also Granite, whose multipliers of embeddings, scores, residuals and logits are scalars, and
    SmolLM3, whose blocks without rotary positions multiply as many matrices."""
    bias = fields.flag("attention_bias", default=False)
    mlp_bias = fields.flag("mlp_bias", default=False)
    return _gated(fields, qkv_bias=bias, output_bias=bias, mlp_bias=mlp_bias)


def _mistral(fields: ConfigFields, widths: Widths) -> Structure:
    return _gated(fields)


def _qwen2(fields: ConfigFields, widths: Widths) -> Structure:
    return _gated(fields, qkv_bias=True)


def _qwen3(fields: ConfigFields, widths: Widths) -> Structure:
    bias = fields.flag("attention_bias", default=False)
    block = _gated(fields, qkv_bias=bias, output_bias=bias)
    return replace(block, query_key_norm=NormSpan.HEAD)


def _qwen3_moe(fields: ConfigFields, widths: Widths) -> Structure:
    """Qwen3's attention; experts in every block, as in all published models of the family."""
    step = fields.count("decoder_sparse_step", default=1)
    dense = fields.values.get("mlp_only_layers")
    for key, value, allowed in (("decoder_sparse_step", step, 1), ("mlp_only_layers", dense, [])):
        if value is not None and value != allowed:
            raise InputError(f"config.{key}", value, f"{allowed}: experts in every block")
    count = fields.count("num_experts", "num_local_experts", default=128)
    per_token = fields.count("num_experts_per_tok", default=8)
    if per_token > count:
        raise InputError("config.num_experts_per_tok", per_token, f"at most {count}, all experts")
    block = _qwen3(fields, widths)
    attention = tuple(one for one in block.linears if one.name.startswith("self_attn."))
    return replace(
        block,
        linears=attention,
        experts=Experts(count, per_token),
        unprunable="its MLPs are experts, of which a pruning rate says nothing",
    )


def blocks_differ(config: Mapping[str, Any]) -> bool:
    """Whether only some blocks of a Qwen3-MoE have experts, for which there is no closed form."""
    every = config.get("decoder_sparse_step") in (None, 1) and not config.get("mlp_only_layers")
    return config.get("model_type") == "qwen3_moe" and not every


def _gemma(fields: ConfigFields, widths: Widths) -> Structure:
    bias = fields.flag("attention_bias", default=False)
    return _gated(fields, qkv_bias=bias, output_bias=bias, activation="gelu_pytorch_tanh")


def _gemma2(fields: ConfigFields, widths: Widths) -> Structure:
    """Norms before and after attention and MLP; scores and logits may be capped."""
    if fields.flag("use_bidirectional_attention", default=False):
        raise InputError("config.use_bidirectional_attention", True, "false: tokens see no later")
    return replace(
        _gemma(fields, widths),
        activation=fields.text("hidden_activation", default="gelu_pytorch_tanh"),
        norms=(
            NormPlace.BEFORE_ATTENTION,
            NormPlace.AFTER_ATTENTION,
            NormPlace.BEFORE_MLP,
            NormPlace.AFTER_MLP,
        ),
        score_cap=fields.limit("attn_logit_softcapping", 50.0) is not None,
        logit_cap=fields.limit("final_logit_softcapping", 30.0) is not None,
        eager_only=True,
    )


def _gemma3(fields: ConfigFields, widths: Widths) -> Structure:
    """Gemma 2's block with norms of queries and keys in the place of capped scores.

    transformers' class reads `attn_logit_softcapping` and passes it on to nothing.
    """
    return replace(
        _gemma2(fields, widths),
        query_key_norm=NormSpan.HEAD,
        score_cap=False,
        logit_cap=fields.limit("final_logit_softcapping", None) is not None,
        eager_only=False,
    )


def _olmo2(fields: ConfigFields, widths: Widths) -> Structure:
    """Norms after attention and MLP, before the residual sums, and of all queries or keys."""
    bias = fields.flag("attention_bias", default=False)
    return replace(
        _gated(fields, qkv_bias=bias, output_bias=bias),
        norms=(NormPlace.AFTER_ATTENTION, NormPlace.AFTER_MLP),
        query_key_norm=NormSpan.ALL_HEADS,
        unprunable="queries and keys are normalised over all heads, so that none can be removed",
    )


def _phi(fields: ConfigFields, widths: Widths) -> Structure:
    """One norm feeds attention and MLP side by side; the LM head has a bias."""
    normed = fields.flag("qk_layernorm", default=False)
    return Structure(
        linears=(
            Linear("self_attn.q_proj", Role.QUERY, bias=True),
            Linear("self_attn.k_proj", Role.KEY, bias=True),
            Linear("self_attn.v_proj", Role.VALUE, bias=True),
            Linear("self_attn.dense", Role.OUTPUT, bias=True),
            Linear("mlp.fc1", Role.UP, bias=True),
            Linear("mlp.fc2", Role.DOWN, bias=True),
        ),
        norm=_LAYER_NORM,
        activation=fields.text("hidden_act", default="gelu_new"),
        block_path="model.layers",
        around_path="model",
        norms=(NormPlace.BEFORE_ATTENTION,),
        parallel=True,
        copies_heads=True,
        query_key_norm=NormSpan.HEAD if normed else NormSpan.NOTHING,
        head_bias=True,
    )


def _phi3(fields: ConfigFields, widths: Widths) -> Structure:
    """The Llama block with query, key and value fused in one matrix, and gate and up in another."""
    return Structure(
        linears=(
            Linear("self_attn.qkv_proj", Role.FUSED_QKV, bias=False),
            Linear("self_attn.o_proj", Role.OUTPUT, bias=False),
            Linear("mlp.gate_up_proj", Role.FUSED_GATE_UP, bias=False),
            Linear("mlp.down_proj", Role.DOWN, bias=False),
        ),
        norm=_RMS_NORM,
        activation=fields.text("hidden_act", default="silu"),
        block_path="model.layers",
        around_path="model",
        copies_heads=True,
    )


FAMILIES: dict[str, StructureReader] = {
    "gpt2": _gpt2,
    "opt": _opt,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma": _gemma,
    "phi": _phi,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "phi3": _phi3,
    "granite": _llama,
    "smollm3": _llama,
    "olmo2": _olmo2,
    "qwen3_moe": _qwen3_moe,
}
"""`model_type` of a config -> the reader of its block structure."""

WITH_EXPERTS = frozenset({"qwen3_moe"})
"""Families whose keys of experts are counted, not refused."""

TIED_BY_DEFAULT = frozenset({"gpt2", "opt", "gemma", "gemma2", "gemma3_text", "smollm3"})
"""Families whose config class ties the LM head to the token table by default."""
