"""The size of one optimiser step's batch."""

import operator
from dataclasses import dataclass

from airtune.errors import InputError


def require_count(field: str, value: int) -> None:
    """Refuse what is not a whole number of at least 1 (numpy's integers are whole numbers)."""
    try:
        whole = operator.index(value)
    except TypeError:
        whole = 0
    if whole < 1:
        raise InputError(field, value, "a whole number of at least 1")


@dataclass(frozen=True)
class Step:
    """`batch_size` sequences of `tokens` tokens each, padding included.

    `logit_positions` is how many positions of a sequence reach the LM head (None: all).
    `label_tokens` is that number for the whole batch, where sequences differ.
    """

    batch_size: int
    tokens: int
    logit_positions: int | None = None
    label_tokens: int | None = None

    def __post_init__(self) -> None:
        require_count("batch_size", self.batch_size)
        require_count("tokens", self.tokens)
        require_count("logit_positions", self.logits_per_sequence)
        if self.logits_per_sequence > self.tokens:
            raise InputError("logit_positions", self.logit_positions, f"at most {self.tokens}")
        if self.label_tokens is not None:
            require_count("label_tokens", self.label_tokens)
            if self.label_tokens > self.positions:
                raise InputError("label_tokens", self.label_tokens, f"at most {self.positions}")

    @property
    def logits_per_sequence(self) -> int:
        """Positions of a sequence for which logits are computed."""
        return self.tokens if self.logit_positions is None else self.logit_positions

    @property
    def positions(self) -> int:
        """Tokens of the whole batch."""
        return self.batch_size * self.tokens

    @property
    def logit_rows(self) -> int:
        """Positions of the whole batch for which logits are computed."""
        if self.label_tokens is not None:
            return self.label_tokens
        return self.batch_size * self.logits_per_sequence
