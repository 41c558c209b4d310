"""A causal language model's shape, from its Hugging Face config alone: no torch, no weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from airtune.errors import InputError
from airtune.workload.block import Structure, Widths
from airtune.workload.config_fields import ConfigFields
from airtune.workload.config_source import read_config
from airtune.workload.families import FAMILIES, TIED_BY_DEFAULT
from airtune.workload.model_kind import refuse_other_kinds

# Two families whose class defaults are not "as many as heads" and "hidden / heads".
_KV_HEADS_WHEN_ABSENT = {"mistral": 8, "qwen2": 32, "qwen3": 32, "gemma": 16}
_HEAD_DIM_WHEN_ABSENT = {"qwen3": 128, "gemma": 256}
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
        structure = self.structure
        elements = structure.norms_per_block * self.hidden_size
        elements += 2 * self.widths.head_dim * structure.query_key_norm
        return structure.norm.parameters_per_element * elements

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
        inside = self.block_count * (blocks + self.norm_parameters)
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


def load_architecture(name_or_folder: str | Path) -> Architecture:
    """The architecture of `builtin`, a bundled config, a folder with config.json, or a hub name.

    Raises InputError when nothing has this name or the family is not supported.
    """
    return Architecture.from_config(read_config(str(name_or_folder)))


def _family(config: Mapping[str, Any]) -> str:
    """The supported `model_type`, or one sentence that lists the families."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise InputError(
            "config.model_type",
            "missing" if family is None else family,
            f"one of the families {', '.join(FAMILIES)}",
            "choose a causal language model of one of them (phi is PhiForCausalLM; phi3, "
            "encoders and mixtures of experts have other blocks)",
        )
    refuse_other_kinds(config)
    return str(family)


def _widths(fields: ConfigFields, family: str) -> Widths:
    hidden = fields.count("hidden_size", "n_embd")
    heads = fields.count("num_attention_heads", "n_head")
    neurons_default = 4 * hidden if family == "gpt2" else None
    neurons = fields.count("intermediate_size", "n_inner", "ffn_dim", default=neurons_default)
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


def _absent_kv_heads(fields: ConfigFields, family: str) -> int:
    """A config without the key gets the class's default; null means as many as query heads."""
    heads = fields.count("num_attention_heads")
    if "num_key_value_heads" in fields.values:
        return heads
    return _KV_HEADS_WHEN_ABSENT.get(family, heads)
