"""Where a gradient must flow in a block, with a frozen base or without.

Autograd computes a gradient only for what something trainable lies below, and keeps a tensor only
if such a gradient needs it. Both FLOPs and memory follow from these switches. Where every parameter
is trained, the token table is, too, and lies below everything: each switch is on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from airtune.workload.block import Linear, Role, Structure


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

    `normed` is what query/key/value read, `mixed` the attention's answer before its output matrix,
    `middle` the residual between attention and MLP, `mlp_input` what the MLP reads, `inside` what
    the down matrix reads, `output` what leaves the block.
    """

    normed: bool
    query: bool
    key: bool
    value: bool
    mixed: bool
    middle: bool
    mlp_input: bool
    gate: bool
    up: bool
    inside: bool
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
            Role.DOWN: self.inside,
        }
        return by_role.get(role, self.normed)


def gradient_flow(structure: Structure, adaptation: Adaptation, enters: bool) -> GradientFlow:
    """The switches of one block; `enters`: something trainable lies below the block."""
    adapted = {linear.role: adaptation.trains(linear) for linear in structure.linears}
    fused = adapted.get(Role.FUSED_QKV, False)
    query, key, value = (
        enters or fused or adapted.get(role, False) for role in (Role.QUERY, Role.KEY, Role.VALUE)
    )
    mixed = query or key or value
    middle = enters or mixed or adapted[Role.OUTPUT]
    mlp_input = enters if structure.parallel else middle
    gate = structure.gated and (mlp_input or adapted[Role.GATE])
    up = mlp_input or adapted[Role.UP]
    inside = gate or up
    return GradientFlow(
        normed=enters,
        query=query,
        key=key,
        value=value,
        mixed=mixed,
        middle=middle,
        mlp_input=mlp_input,
        gate=gate,
        up=up,
        inside=inside,
        output=middle or inside or adapted[Role.DOWN],
    )
