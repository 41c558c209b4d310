"""A mixture of experts: what it holds, multiplies, and keeps for the backward pass.

Read off transformers' modelling files and `grouped_mm`, its default for experts: the rows of every
token's chosen experts are sorted by expert, multiplied expert by expert, weighted and added.
"""

from dataclasses import dataclass

_INDEX_BYTES = 4 * 8
"""Of each row: its expert, its place in the order by expert, that order back, and its token."""


@dataclass(frozen=True)
class Experts:
    """Gated MLPs in the place of one: a router sends every token to `per_token` of them.

    Each expert has the matrices gate and up (neurons x hidden, in one) and down (hidden x neurons),
    the router one of (count x hidden). In transformers 5 experts are tensors of three axes, not
    linear layers, so LoRA leaves them as they are. Below, a row is a token at one of its experts.
    """

    count: int
    per_token: int

    def parameters(self, hidden: int, neurons: int) -> int:
        """All experts, busy or not, and the router."""
        return self.count * (3 * neurons + 1) * hidden

    def flops(self, hidden: int, neurons: int, tokens: int) -> int:
        """Products of one pass: `2 tokens hidden count` of the router, `6 tokens per_token hidden
        neurons` of the experts, wherever the tokens go."""
        return 2 * tokens * hidden * (self.count + 3 * self.per_token * neurons)

    def stored_bytes(
        self, hidden: int, neurons: int, tokens: int, width: int, arrays: int, trained: bool
    ) -> int:
        """Kept for the backward pass, at `width` bytes a number.

        Of each row: up, the activated gate and what the activation function keeps (`arrays`), the
        expert's answer, its weight and indices; where experts are trained also what each of their
        matrices reads. Of each token: the router's probabilities, fp32, and what a trained router
        reads.
        """
        rows = tokens * self.per_token
        numbers = (arrays + 2) * neurons + hidden + 1 + trained * (hidden + neurons)
        of_tokens = 4 * self.count + trained * width * hidden
        return rows * (width * numbers + _INDEX_BYTES) + tokens * of_tokens
