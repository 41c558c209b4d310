"""The pieces of a decoder block (widths, matrices by role, norms), and where gradients flow in it.

A matrix's role fixes its shape, and through the widths what pruning removes from it: the hidden
width always stays, so A of query/key/value/gate/up and B of output/down never shrink.

Autograd computes a gradient only for what something trainable lies below, and keeps a tensor only
if such a gradient needs it. Both FLOPs and memory follow from these switches. Where every parameter
is trained, the token table is, too, and lies below everything: each switch is on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from operator import attrgetter
from typing import TypeAlias

from airtune.workload.experts import Experts


class Role(StrEnum):
    """What a matrix does in the data flow of a block, or beside the blocks (projections)."""

    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    FUSED_QKV = "fused_qkv"
    OUTPUT = "output"
    GATE = "gate"
    UP = "up"
    FUSED_GATE_UP = "fused_gate_up"
    DOWN = "down"
    PROJECT_IN = "project_in"
    PROJECT_OUT = "project_out"


@dataclass(frozen=True)
class Widths:
    """The extents that fix every shape of a block.

    `hidden` is the residual width, `embedding` the width of the token table (equal to `hidden` but
    for OPT-350m), `neurons` the width inside the MLP, or inside each expert.
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


_Width: TypeAlias = Callable[[Widths], int]
_HIDDEN: _Width = attrgetter("hidden")
_READS: Mapping[Role, _Width] = {
    Role.OUTPUT: attrgetter("query"),
    Role.DOWN: attrgetter("neurons"),
    Role.PROJECT_IN: attrgetter("embedding"),
}
_WRITES: Mapping[Role, _Width] = {
    Role.QUERY: attrgetter("query"),
    Role.KEY: attrgetter("key_value"),
    Role.VALUE: attrgetter("key_value"),
    Role.FUSED_QKV: lambda widths: widths.query + 2 * widths.key_value,
    Role.GATE: attrgetter("neurons"),
    Role.UP: attrgetter("neurons"),
    Role.FUSED_GATE_UP: lambda widths: 2 * widths.neurons,
    Role.PROJECT_OUT: attrgetter("embedding"),
}
"""What a matrix in a role reads and writes; in every other role, the residual width."""


@dataclass(frozen=True)
class Linear:
    """A weight matrix by its name inside the block, such as `self_attn.q_proj`."""

    name: str
    role: Role
    bias: bool

    def input_width(self, widths: Widths) -> int:
        """Columns of the matrix: what it reads."""
        return _READS.get(self.role, _HIDDEN)(widths)

    def output_width(self, widths: Widths) -> int:
        """Rows of the matrix: what it writes."""
        return _WRITES.get(self.role, _HIDDEN)(widths)

    def parameters(self, widths: Widths) -> int:
        """Weights, and a bias for each output where there is one."""
        rows = self.output_width(widths)
        return rows * (self.input_width(widths) + self.bias)


@dataclass(frozen=True)
class Matrix:
    """A matrix that LoRA may adapt, with its place in the model.

    `path` is dotted and begins at the model, `name` at its block, or beside the blocks, where
    `block` is None. `half`: the block whose half of a split model holds it. `role` is None in a
    model without closed form.
    """

    path: str
    name: str
    block: int | None
    half: int
    read: int
    write: int
    role: Role | None = None


class NormKind(StrEnum):
    """Which normalisation a family uses; it decides what the backward pass must keep."""

    LAYER = "layer"
    RMS = "rms"


@dataclass(frozen=True)
class Norm:
    """A family's normalisation: kind and learned numbers per element (0, 1 or 2)."""

    kind: NormKind
    parameters_per_element: int


class NormPlace(StrEnum):
    """Where a norm over the hidden width stands in a block, by what it reads.

    Before attention or MLP it reads the residual stream, after them their answer before that is
    added; ON_MIDDLE and ON_OUTPUT normalise the residual sums themselves (OPT-350m).
    """

    BEFORE_ATTENTION = "before_attention"
    AFTER_ATTENTION = "after_attention"
    ON_MIDDLE = "on_middle"
    BEFORE_MLP = "before_mlp"
    AFTER_MLP = "after_mlp"
    ON_OUTPUT = "on_output"


class NormSpan(StrEnum):
    """What queries and keys are normalised over."""

    NOTHING = "nothing"
    HEAD = "head"
    ALL_HEADS = "all_heads"


BEFORE_BOTH = (NormPlace.BEFORE_ATTENTION, NormPlace.BEFORE_MLP)
"""The two norms of most families."""


@dataclass(frozen=True)
class Structure:
    """What a block of one family is made of, besides its widths.

    `parallel`: attention and MLP read the same norm and are added (Phi). `query_key_norm`: over
    `head_dim` (Qwen3, Gemma 3, some Phi) or over all heads together (OLMo 2). `copies_heads`: heads
    are cut and joined around the rotation, and so copied (Phi, Phi-3). `score_cap`, `logit_cap`: a
    tanh limits attention scores, logits (Gemma 2). `eager_only`: transformers has no fused
    attention for the family. `experts` stand in place of the MLP's matrices. `block_path` is where
    the blocks are in the Hugging Face model, `around_path` of the projections beside them.
    `unprunable` says why no unit can be removed from a block; empty where units can.
    """

    linears: tuple[Linear, ...]
    norm: Norm
    activation: str
    block_path: str
    around_path: str
    norms: tuple[NormPlace, ...] = BEFORE_BOTH
    parallel: bool = False
    query_key_norm: NormSpan = NormSpan.NOTHING
    copies_heads: bool = False
    final_norm: bool = True
    head_bias: bool = False
    input_linears: tuple[Linear, ...] = ()
    output_linears: tuple[Linear, ...] = ()
    softmax_in_fp32: bool = True
    score_cap: bool = False
    logit_cap: bool = False
    eager_only: bool = False
    experts: Experts | None = None
    unprunable: str = ""

    @property
    def gated(self) -> bool:
        """Whether the MLP multiplies an activated gate with a second projection."""
        return self.experts is not None or any(
            linear.role in (Role.GATE, Role.FUSED_GATE_UP) for linear in self.linears
        )

    @property
    def fused(self) -> bool:
        """Whether one matrix makes queries, keys and values."""
        return any(linear.role is Role.FUSED_QKV for linear in self.linears)

    @property
    def all_linears(self) -> tuple[Linear, ...]:
        """Every matrix LoRA may adapt, in the order of the forward pass."""
        return (*self.input_linears, *self.linears, *self.output_linears)


@dataclass(frozen=True)
class Adaptation:
    """What is trained: LoRA on the named matrices or, `whole`, every parameter.

    `ranks` are pairs of a matrix's name inside its block, or beside the blocks, and its rank.
    `blocks` has one entry a block where they differ; empty, every block is like this one.
    `frozen_a`: of each adapter B alone is trained.
    """

    ranks: frozenset[tuple[str, int]]
    whole: bool = False
    frozen_a: bool = False
    blocks: tuple["Adaptation", ...] = ()

    @cached_property
    def _rank_of(self) -> dict[str, int]:
        return dict(self.ranks)

    def in_block(self, index: int) -> "Adaptation":
        """What is trained of this block."""
        return self.blocks[index] if self.blocks else self

    def of(self, linear: Linear) -> int:
        """The rank at this matrix, 0 where it is not adapted."""
        return self._rank_of.get(linear.name, 0)

    def trains(self, linear: Linear) -> bool:
        """Whether the matrix, or an adapter on it, is trained."""
        return self.whole or linear.name in self._rank_of


@dataclass(frozen=True)
class GradientFlow:
    """Whether each tensor of a block needs a gradient.

    `normed` is what query/key/value read, `mixed` the attention's answer before its output matrix
    and `attended` after it, `middle` the residual between attention and MLP, `mlp_input` what the
    MLP reads, `inside` what the down matrix reads and `written` what it writes, `output` what
    leaves the block.
    """

    normed: bool
    query: bool
    key: bool
    value: bool
    mixed: bool
    attended: bool
    middle: bool
    mlp_input: bool
    gate: bool
    up: bool
    inside: bool
    written: bool
    output: bool

    @property
    def scores(self) -> bool:
        """Attention scores come from queries and keys."""
        return self.query or self.key

    def input_of(self, role: Role) -> bool:
        """Whether the input of the matrix in this role needs a gradient."""
        by_role: Mapping[Role, bool] = {
            Role.OUTPUT: self.mixed,
            Role.GATE: self.mlp_input,
            Role.UP: self.mlp_input,
            Role.FUSED_GATE_UP: self.mlp_input,
            Role.DOWN: self.inside,
        }
        return by_role.get(role, self.normed)

    def input_of_norm(self, place: NormPlace) -> bool:
        """Whether what this norm reads needs a gradient."""
        return {
            NormPlace.BEFORE_ATTENTION: self.normed,
            NormPlace.AFTER_ATTENTION: self.attended,
            NormPlace.ON_MIDDLE: self.middle,
            NormPlace.BEFORE_MLP: self.middle,
            NormPlace.AFTER_MLP: self.written,
            NormPlace.ON_OUTPUT: self.output,
        }[place]


def gradient_flow(structure: Structure, adaptation: Adaptation, enters: bool) -> GradientFlow:
    """The switches of one block; `enters`: something trainable lies below the block."""
    adapted = {linear.role for linear in structure.linears if adaptation.trains(linear)}
    query, key, value = (
        enters or not adapted.isdisjoint((role, Role.FUSED_QKV))
        for role in (Role.QUERY, Role.KEY, Role.VALUE)
    )
    mixed = query or key or value
    attended = mixed or Role.OUTPUT in adapted
    middle = enters or attended
    mlp_input = enters if structure.parallel else middle
    fused = Role.FUSED_GATE_UP in adapted
    gate = structure.gated and (mlp_input or fused or Role.GATE in adapted)
    up = mlp_input or fused or Role.UP in adapted
    inside = gate or up
    written = inside or Role.DOWN in adapted
    return GradientFlow(
        normed=enters,
        query=query,
        key=key,
        value=value,
        mixed=mixed,
        attended=attended,
        middle=middle,
        mlp_input=mlp_input,
        gate=gate,
        up=up,
        inside=inside,
        written=written,
        output=middle or written,
    )
