"""A causal language model's shape, from its Hugging Face config alone: no torch, no weights.

A pruning rate removes attention units and MLP neurons, the same share in every block. Attention
units are key/value groups (a KV head with its query heads); with fewer than four KV heads they are
query heads, the same number from every group. The residual width stays. Of `units` units,
floor(rate x units) go and at least one stays.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import floor
from pathlib import Path
from typing import Any, TypeAlias

from airtune.errors import InputError
from airtune.workload.block import NormSpan, Structure, Widths
from airtune.workload.config_source import read_config
from airtune.workload.counted import CountedArchitecture
from airtune.workload.families import (
    FAMILIES,
    TIED_BY_DEFAULT,
    WITH_EXPERTS,
    ConfigFields,
    blocks_differ,
)

_CAUSAL = ("ForCausalLM", "LMHeadModel")
_EXPERTS = re.compile(r"(^|_)(experts?|moe)(_|$)")
_NESTED = ("vision_config", "audio_config", "text_config", "encoder", "decoder")


def refuse_other_kinds(config: Mapping[str, Any]) -> None:
    """Refuse classifiers, quantised weights, multimodal models and encoders.

    Each would be counted, or loaded, as the plain decoder of its family, which it is not. Raises
    InputError that names the key.
    """
    heads = config.get("architectures") or []
    if not isinstance(heads, list) or not all(isinstance(head, str) for head in heads):
        raise InputError("config.architectures", heads, "a list of class names")
    if heads and not any(head.endswith(_CAUSAL) for head in heads):
        raise InputError(
            "config.architectures",
            ", ".join(heads),
            "a causal language model (…ForCausalLM)",
            "it has another head, or none: choose the model that it was made from",
        )
    if config.get("quantization_config"):
        raise InputError(
            "config.quantization_config",
            config["quantization_config"],
            "absent",
            "LoRA here trains on unquantised weights: name the original model, and set dtype",
        )
    for key, value in config.items():
        if key in _NESTED and value:
            raise InputError(f"config.{key}", value, "absent", "choose a model of text alone")
    for key in ("is_encoder_decoder", "add_cross_attention"):
        if config.get(key):
            raise InputError(f"config.{key}", True, "false", "use a decoder without an encoder")


def refuse_own_code(config: Mapping[str, Any]) -> None:
    """Refuse a model that comes with Python code, unless the user allows it."""
    if config.get("auto_map"):
        raise InputError(
            "config.auto_map",
            config["auto_map"],
            "absent",
            "the model brings its own Python code, which may do anything: if you trust it, set "
            "trust_remote_code=true; if transformers' own class will do, remove auto_map",
        )


# Where class defaults are not "as many as heads" and "hidden / heads".
_KV_HEADS_WHEN_ABSENT = {
    "mistral": 8,
    "qwen2": 32,
    "qwen3": 32,
    "gemma": 16,
    "gemma2": 4,
    "gemma3_text": 4,
    "smollm3": 4,
    "qwen3_moe": 4,
}
_HEAD_DIM_WHEN_ABSENT = {"qwen3": 128, "gemma": 256, "gemma2": 256, "gemma3_text": 256}
_EXPERT_NEURONS_WHEN_ABSENT = 768
_SELF_MADE_HEADS = frozenset({"gpt2", "opt"})
_OPT_POSITION_OFFSET = 2
"""OPT's learned positions start at index 2 (transformers, OPTLearnedPositionalEmbedding)."""


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes parameters, FLOPs, activations and memory of a decoder.

    `position_rows` counts the rows of a learned position table (0 with rotary positions);
    `max_tokens` is the longest sequence; `tied`: the LM head is the token table.
    """

    family: str
    vocab_size: int
    block_count: int
    widths: Widths
    structure: Structure
    position_rows: int
    max_tokens: int
    tied: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Architecture":
        """Read a config.json's mapping. Raises InputError that names the key or lists families."""
        fields = ConfigFields(config)
        family = _family(config)
        widths = _widths(fields, family)
        max_tokens = fields.count("n_positions", "max_position_embeddings")
        rows = {"gpt2": max_tokens, "opt": max_tokens + _OPT_POSITION_OFFSET}
        return cls(
            family=family,
            vocab_size=fields.count("vocab_size"),
            block_count=fields.count("num_hidden_layers", "n_layer"),
            widths=widths,
            structure=FAMILIES[family](fields, widths),
            position_rows=rows.get(family, 0),
            max_tokens=max_tokens,
            tied=fields.flag("tie_word_embeddings", default=family in TIED_BY_DEFAULT),
        )

    @property
    def hidden_size(self) -> int:
        """The residual width, which is what crosses a cut between two blocks."""
        return self.widths.hidden

    @property
    def norm_parameters(self) -> int:
        """Learned numbers of the norms of one block, those of queries and keys included."""
        structure, widths = self.structure, self.widths
        of_queries_and_keys = {
            NormSpan.NOTHING: 0,
            NormSpan.HEAD: 2 * widths.head_dim,
            NormSpan.ALL_HEADS: widths.query + widths.key_value,
        }[structure.query_key_norm]
        elements = len(structure.norms) * self.hidden_size + of_queries_and_keys
        return structure.norm.parameters_per_element * elements

    @property
    def expert_parameters(self) -> int:
        """Experts and router of one block."""
        experts, widths = self.structure.experts, self.widths
        return 0 if experts is None else experts.parameters(widths.hidden, widths.neurons)

    @property
    def table_parameters(self) -> int:
        """The token table, and the table of learned positions where there is one."""
        return self.vocab_size * self.widths.embedding + self.position_rows * self.hidden_size

    @property
    def parameters(self) -> int:
        """All learned numbers of the model; a tied head is the token table and counts once."""
        structure, widths = self.structure, self.widths
        blocks = sum(linear.parameters(widths) for linear in structure.linears)
        beside = (*structure.input_linears, *structure.output_linears)
        around = sum(linear.parameters(widths) for linear in beside)
        inside = self.block_count * (blocks + self.norm_parameters + self.expert_parameters)
        return self.table_parameters + around + inside + self.head_parameters

    @property
    def head_parameters(self) -> int:
        """Final norm and LM head; a tied head is the token table, counted at the embedding."""
        structure = self.structure
        norm = structure.norm.parameters_per_element * self.hidden_size * structure.final_norm
        matrix = 0 if self.tied else self.vocab_size * self.widths.embedding
        return norm + matrix + self.vocab_size * structure.head_bias

    def with_widths(self, widths: Widths) -> "Architecture":
        """The same model with other block widths, as pruning leaves it."""
        return replace(self, widths=widths)


Decoder: TypeAlias = Architecture | CountedArchitecture
"""A causal language model's shape: in closed form, or counted by running its module."""


def architecture_of(config: Mapping[str, Any]) -> Decoder:
    """The shape of a config's model, in closed form where its family has one.

    Raises InputError that names the key.
    """
    if closed_form_of(config):
        return Architecture.from_config(config)
    refuse_other_kinds(config)
    return CountedArchitecture.from_config(config)


def closed_form_of(config: Mapping[str, Any]) -> bool:
    """Whether the family has a closed form, and this model the blocks that it describes."""
    known = config.get("model_type") in FAMILIES
    return known and not _expert_key(config) and not blocks_differ(config)


def closed_form(architecture: Decoder, purpose: str, field: str = "model") -> Architecture:
    """The closed form, for what needs the roles of matrices inside a block.

    Raises InputError that names the family; `purpose` completes "where the model is ...".
    """
    if isinstance(architecture, CountedArchitecture):
        raise InputError(
            field,
            f"of the family {architecture.family}",
            f"one of the families {', '.join(FAMILIES)} where the model is {purpose}",
            "the roles of the matrices in its blocks are not known: take a method that trains the "
            "whole model, or a model of one of these families",
        )
    return architecture


def load_architecture(name_or_folder: str | Path) -> Decoder:
    """The architecture of `builtin`, a bundled config, a folder with config.json, or a hub name.

    Raises InputError when nothing has this name, or the model is no plain decoder.
    """
    return architecture_of(read_config(str(name_or_folder)))


def _family(config: Mapping[str, Any]) -> str:
    """The supported `model_type`, or one sentence that lists the families."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise InputError(
            "config.model_type",
            "missing" if family is None else family,
            f"one of the families {', '.join(FAMILIES)}",
            "its blocks have no closed form here",
        )
    refuse_other_kinds(config)
    key = _expert_key(config)
    if key:
        raise InputError(
            f"config.{key}",
            config[key],
            "absent, since the closed form is that of a plain decoder",
            "choose a model without experts",
        )
    return str(family)


def _expert_key(config: Mapping[str, Any]) -> str:
    """A key that only a mixture of experts has; empty where there is none, or where the family's
    closed form counts them."""
    if config.get("model_type") in WITH_EXPERTS:
        return ""
    return next((key for key, value in config.items() if _EXPERTS.search(key) and value), "")


def _widths(fields: ConfigFields, family: str) -> Widths:
    hidden = fields.count("hidden_size", "n_embd")
    heads = fields.count("num_attention_heads", "n_head")
    neurons = _neurons(fields, family, hidden)
    kv_heads, head_dim = heads, 0
    if family not in _SELF_MADE_HEADS:
        kv_heads = fields.count("num_key_value_heads", default=_absent_kv_heads(fields, family))
        default_dim = _HEAD_DIM_WHEN_ABSENT.get(family, max(hidden // heads, 1))
        head_dim = fields.count("head_dim", default=default_dim)
    elif hidden % heads:
        raise InputError(
            "config.num_attention_heads", heads, f"a divisor of the hidden width {hidden}"
        )
    if heads % kv_heads:
        raise InputError("config.num_key_value_heads", kv_heads, f"a divisor of {heads} heads")
    embedding = fields.count("word_embed_proj_dim", default=hidden) if family == "opt" else hidden
    return Widths(hidden, embedding, heads, kv_heads, head_dim or hidden // heads, neurons)


def _neurons(fields: ConfigFields, family: str, hidden: int) -> int:
    """The width inside the MLP, or inside an expert."""
    if family in WITH_EXPERTS:
        return fields.count("moe_intermediate_size", default=_EXPERT_NEURONS_WHEN_ABSENT)
    default = 4 * hidden if family == "gpt2" else None
    return fields.count("intermediate_size", "n_inner", "ffn_dim", default=default)


def _absent_kv_heads(fields: ConfigFields, family: str) -> int:
    """A config without the key gets the class's default; null means as many as query heads."""
    heads = fields.count("num_attention_heads")
    if "num_key_value_heads" in fields.values:
        return heads
    return _KV_HEADS_WHEN_ABSENT.get(family, heads)


FEWEST_GROUPS = 4
"""Below this many KV heads, whole groups would be too coarse a unit."""

# A planner works with rates k / units; without this slack floor((k / units) x units) loses one.
_ROUNDING_SLACK = 1e-9


def removed_units(pruning_rate: float, units: int) -> int:
    """How many of `units` equal units a pruning rate removes.

    Raises InputError unless 0 <= pruning_rate < 1.
    """
    if not 0.0 <= pruning_rate < 1.0:
        raise InputError("pruning_rate", pruning_rate, "at least 0 and less than 1")
    return min(floor(pruning_rate * units + _ROUNDING_SLACK), units - 1)


def prunes_groups(widths: Widths) -> bool:
    """Whether attention units are whole KV groups, not query heads inside each group."""
    return widths.kv_heads >= FEWEST_GROUPS


def attention_units(widths: Widths) -> int:
    """KV groups, or query heads per group where there are fewer than four groups."""
    return widths.kv_heads if prunes_groups(widths) else widths.heads // widths.kv_heads


def with_units(widths: Widths, units: int, neurons: int) -> Widths:
    """Widths that keep this many attention units (zero allowed, as a limit) and MLP neurons."""
    per_group = widths.heads // widths.kv_heads
    if prunes_groups(widths):
        return replace(widths, heads=units * per_group, kv_heads=units, neurons=neurons)
    return replace(widths, heads=units * widths.kv_heads, neurons=neurons)


def pruned_widths(widths: Widths, pruning_rate: float) -> Widths:
    """The widths of every block after pruning, which is exactly what the tuner slices out."""
    units = attention_units(widths)
    return with_units(
        widths,
        units - removed_units(pruning_rate, units),
        widths.neurons - removed_units(pruning_rate, widths.neurons),
    )


def require_prunable(architecture: Decoder, field: str = "model") -> Architecture:
    """The closed form of a family of whose blocks units can be removed.

    Raises InputError, with the reason, for any other; `field` is the key that named the model.
    """
    closed = closed_form(architecture, "pruned", field)
    reason = closed.structure.unprunable
    if reason:
        allowed = "one of whose blocks heads and neurons can be removed"
        raise InputError(field, closed.family, allowed, reason)
    return closed


def pruned(architecture: Architecture, pruning_rate: float) -> Architecture:
    """The architecture with every block pruned at this rate."""
    if pruning_rate != 0.0:
        require_prunable(architecture)
    return architecture.with_widths(pruned_widths(architecture.widths, pruning_rate))
