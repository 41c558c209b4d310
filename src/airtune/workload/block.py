"""The pieces of a decoder block: widths, matrices by role, norms.

A matrix's role fixes its shape, and through the widths what pruning removes from it: the hidden
width always stays, so A of query/key/value/gate/up and B of output/down never shrink.
"""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a matrix does in the data flow of a block, or beside the blocks (projections)."""

    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    FUSED_QKV = "fused_qkv"
    OUTPUT = "output"
    GATE = "gate"
    UP = "up"
    DOWN = "down"
    PROJECT_IN = "project_in"
    PROJECT_OUT = "project_out"


@dataclass(frozen=True)
class Widths:
    """The extents that fix every shape of a block.

    `hidden` is the residual width, `embedding` the width of the token table (equal to `hidden` but
    for OPT-350m), `neurons` the width inside the MLP.
    """

    hidden: int
    embedding: int
    heads: int
    kv_heads: int
    head_dim: int
    neurons: int

    @property
    def query(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Linear:
    """A weight matrix by its name inside the block, such as `self_attn.q_proj`."""

    name: str
    role: Role
    bias: bool

    def input_width(self, widths: Widths) -> int:
        """Columns of the matrix: what it reads."""
        return {
            Role.OUTPUT: widths.query,
            Role.DOWN: widths.neurons,
            Role.PROJECT_IN: widths.embedding,
        }.get(self.role, widths.hidden)

    def output_width(self, widths: Widths) -> int:
        """Rows of the matrix: what it writes."""
        return {
            Role.QUERY: widths.query,
            Role.KEY: widths.key_value,
            Role.VALUE: widths.key_value,
            Role.FUSED_QKV: widths.query + 2 * widths.key_value,
            Role.GATE: widths.neurons,
            Role.UP: widths.neurons,
            Role.PROJECT_OUT: widths.embedding,
        }.get(self.role, widths.hidden)

    def parameters(self, widths: Widths) -> int:
        """Weights, and a bias for each output where there is one."""
        rows = self.output_width(widths)
        return rows * (self.input_width(widths) + self.bias)


class NormKind(StrEnum):
    """Which normalisation a family uses; it decides what the backward pass must keep."""

    LAYER = "layer"
    RMS = "rms"


@dataclass(frozen=True)
class Norm:
    """A family's normalisation: kind and learned numbers per element (0, 1 or 2)."""

    kind: NormKind
    parameters_per_element: int


@dataclass(frozen=True)
class Structure:
    """What a block of one family is made of, besides its widths.

    `parallel`: attention and MLP read the same norm and are added (Phi). `query_key_norm`: each
    head's queries and keys are normalised over `head_dim` (Qwen3, some Phi). `norm_after`: norms
    follow the residual sums instead of preceding attention and MLP (OPT-350m). `partial_rotary`:
    heads are cut and joined around the rotation, and so copied (Phi). `block_path` is where the
    blocks are in the Hugging Face model, `around_path` of the projections beside them.
    """

    linears: tuple[Linear, ...]
    norm: Norm
    norms_per_block: int
    activation: str
    block_path: str
    around_path: str
    parallel: bool = False
    query_key_norm: bool = False
    norm_after: bool = False
    partial_rotary: bool = False
    final_norm: bool = True
    head_bias: bool = False
    input_linears: tuple[Linear, ...] = ()
    output_linears: tuple[Linear, ...] = ()
    softmax_in_fp32: bool = True

    @property
    def gated(self) -> bool:
        """Whether the MLP multiplies an activated gate with a second projection."""
        return any(linear.role is Role.GATE for linear in self.linears)

    @property
    def all_linears(self) -> tuple[Linear, ...]:
        """Every matrix LoRA may adapt, in the order of the forward pass."""
        return (*self.input_linears, *self.linears, *self.output_linears)
