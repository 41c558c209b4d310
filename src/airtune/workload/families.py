"""How each supported model family builds its blocks, read from transformers' modelling files.

Defaults are those of transformers 5's config classes, because a config.json may omit them. Errors
about a config name the key.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from airtune.errors import InputError
from airtune.workload.block import Linear, Norm, NormKind, Role, Structure, Widths


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
        norms_per_block=2,
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
        norms_per_block=2,
        activation=fields.text("activation_function", default="relu"),
        block_path="model.decoder.layers",
        around_path="model.decoder",
        norm_after=not before,
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
    query_key_norm: bool = False,
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
        norms_per_block=2,
        activation=fields.text("hidden_act", "hidden_activation", default=activation),
        block_path="model.layers",
        around_path="model",
        query_key_norm=query_key_norm,
    )


def _llama(fields: ConfigFields, widths: Widths) -> Structure:
    bias = fields.flag("attention_bias", default=False)
    mlp_bias = fields.flag("mlp_bias", default=False)
    return _gated(fields, qkv_bias=bias, output_bias=bias, mlp_bias=mlp_bias)


def _mistral(fields: ConfigFields, widths: Widths) -> Structure:
    return _gated(fields)


def _qwen2(fields: ConfigFields, widths: Widths) -> Structure:
    return _gated(fields, qkv_bias=True)


def _qwen3(fields: ConfigFields, widths: Widths) -> Structure:
    bias = fields.flag("attention_bias", default=False)
    return _gated(fields, qkv_bias=bias, output_bias=bias, query_key_norm=True)


def _gemma(fields: ConfigFields, widths: Widths) -> Structure:
    bias = fields.flag("attention_bias", default=False)
    return _gated(fields, qkv_bias=bias, output_bias=bias, activation="gelu_pytorch_tanh")


def _phi(fields: ConfigFields, widths: Widths) -> Structure:
    """One norm feeds attention and MLP side by side; the LM head has a bias."""
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
        norms_per_block=1,
        activation=fields.text("hidden_act", default="gelu_new"),
        block_path="model.layers",
        around_path="model",
        parallel=True,
        partial_rotary=True,
        query_key_norm=fields.flag("qk_layernorm", default=False),
        head_bias=True,
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
}
"""`model_type` of a config -> the reader of its block structure."""

TIED_BY_DEFAULT = frozenset({"gpt2", "opt", "gemma"})
"""Families whose config class ties the LM head to the token table by default."""
