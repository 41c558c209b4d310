"""A decoder that airtune has no closed form for: its sizes and its work, counted, not derived.

transformers' own module is run on torch's meta device (`workload.counting`). Of every kind of step
a few shapes are counted and the rest computed from them: products of a decoder are
`rows (a t + b t^2)` in the tokens t of a sequence, what is kept is affine in the rows and quadratic
in t. The rule is used only where it gives to the last unit what is counted at shapes that it was
not made from, on both sides of every window that the config names; elsewhere each shape is counted.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from typing import Any, final

from airtune.errors import InputError
from airtune.workload.block import Matrix
from airtune.workload.counting.sample import NotCountable, Sample, Trainee

NO_LIMIT = 2**31 - 1
"""Tokens of a model that names no longest sequence."""
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx")
_NO_SHAPE = frozenset({"_name_or_path", "_commit_hash", "transformers_version"})
_WINDOWS = ("window", "chunk")
ADAPTER_BYTES = 4


@final
@dataclass(frozen=True)
class CountedArchitecture:
    """Sizes of a decoder as its own module has them; `config` is its JSON text.

    `part_parameters` has the axis [embedding, blocks.., head]; a tied head counts at the embedding.
    `position_rows`: rows of a table of learned positions, 0 without one.
    """

    family: str
    config: str
    vocab_size: int
    block_count: int
    hidden_size: int
    part_parameters: tuple[int, ...]
    matrices: tuple[Matrix, ...]
    position_rows: int
    max_tokens: int
    tied: bool

    @property
    def parameters(self) -> int:
        """All learned numbers of the model."""
        return sum(self.part_parameters)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "CountedArchitecture":
        """Make the module without numbers and read it.

        Raises InputError where transformers cannot make it, or where it is no plain decoder.
        """
        shape = {key: value for key, value in config.items() if key not in _NO_SHAPE}
        return _described(json.dumps(shape, sort_keys=True, default=str))

    def parts(self, learned: "Learned", rows: int, tokens: int) -> list["PartCount"]:
        """The embedding, every block and the head in one step of so many sequences and tokens.

        Raises InputError where the module cannot be run at this shape.
        """
        count = _counts(self, learned.trainee).at(rows, tokens)
        if not learned.whole:
            count = with_ranks(count, self.matrices, learned.ranks, learned.frozen_a)
        positions = rows * tokens
        blocks = [f"block {block}" for block in range(self.block_count)]
        outputs = [positions * self.hidden_size] * (1 + self.block_count)
        trained, held = self._adapters(learned, count)
        return [
            PartCount(*each)
            for each in zip(
                ["embedding", *blocks, "head"],
                self.part_parameters,
                trained,
                held,
                count.forward,
                count.backward,
                [*outputs, positions * self.vocab_size],
                count.stored_bytes,
                strict=True,
            )
        ]

    def _adapters(self, learned: "Learned", count: Sample) -> tuple[list[int], list[int]]:
        """Numbers trained, and those of frozen factors A, by part."""
        parts = len(self.part_parameters)
        if learned.whole:
            return list(self.part_parameters), [0] * parts
        trained, held = [0] * parts, [0] * parts
        for matrix in self.matrices:
            if matrix.path not in learned.ranks:
                continue
            rank, runs = learned.ranks[matrix.path], count.adapted.get(matrix.path)
            part = matrix.half + 1 if runs is None else runs.part
            trained[part] += rank * (matrix.write + matrix.read * (not learned.frozen_a))
            held[part] += rank * matrix.read * learned.frozen_a
        return trained, held


@dataclass(frozen=True)
class Learned:
    """What is trained, and in which number formats: LoRA of these ranks by path, or everything."""

    ranks: Mapping[str, int]
    frozen_a: bool
    whole: bool
    dtype: str
    attention: str

    @property
    def trainee(self) -> Trainee:
        """The same without the ranks, on which the counts depend in closed form."""
        paths = tuple(self.ranks)
        return Trainee(paths, self.frozen_a, self.whole, self.dtype, self.attention)


@dataclass(frozen=True)
class PartCount:
    """One part of the model in one step: numbers held and trained, FLOPs, numbers that leave it.

    `held` are those of frozen factors A; `stored_bytes` is what it keeps for the backward pass.
    """

    name: str
    parameters: int
    trained: int
    held: int
    forward: int
    backward: int
    outputs: int
    stored_bytes: int


@lru_cache(maxsize=16)
def _described(text: str) -> CountedArchitecture:
    from airtune.workload.counting.module import build, describe

    config = json.loads(text)
    try:
        found = describe(build(config))
    except NotCountable as error:
        raise _uncountable(config, error) from error
    limits = (config.get(key) for key in _LENGTHS)
    return CountedArchitecture(
        family=str(config.get("model_type")),
        config=text,
        vocab_size=found.vocab_size,
        block_count=found.block_count,
        hidden_size=found.hidden_size,
        part_parameters=found.parameters,
        matrices=found.matrices,
        position_rows=found.positions,
        max_tokens=next((n for n in limits if isinstance(n, int) and n > 0), NO_LIMIT),
        tied=found.tied,
    )


def _uncountable(config: Mapping[str, Any], error: Exception) -> InputError:
    return InputError(
        "config.model_type",
        config.get("model_type") or "missing",
        "a decoder that transformers' AutoModelForCausalLM makes and runs",
        f"it cannot be counted: {error}",
    )


@lru_cache(maxsize=32)
def _counts(architecture: CountedArchitecture, trainee: Trainee) -> "Counts":
    return Counts(architecture, trainee)


def with_ranks(
    sample: Sample, matrices: Sequence[Matrix], ranks: Mapping[str, int], frozen_a: bool
) -> Sample:
    """A step that was counted with adapters of rank 1, with adapters of these ranks.

    For P rows, `in` inputs, `out` outputs and r ranks: forward 2 P r (in + out); backward 2 P r out
    of B, 2 P r in of A unless frozen, 2 P r out of A x where A or x needs a gradient, 2 P r in of x
    where it needs one; A x is kept, in fp32.
    """
    forward, backward = list(sample.forward), list(sample.backward)
    stored = list(sample.stored_bytes)
    for matrix in matrices:
        if matrix.path not in sample.adapted:
            continue
        rows, needs, part = sample.adapted[matrix.path]
        more = rows * (ranks[matrix.path] - 1)
        trains_a = not frozen_a
        back = matrix.write * (1 + (needs or trains_a)) + matrix.read * (trains_a + needs)
        forward[part] += 2 * more * (matrix.read + matrix.write)
        backward[part] += 2 * more * back
        stored[part] += ADAPTER_BYTES * more
    return replace(
        sample,
        forward=tuple(forward),
        backward=tuple(backward),
        stored_bytes=tuple(stored),
    )


@final
class Counts:
    """Steps of any shape with one choice of what is trained."""

    def __init__(self, architecture: CountedArchitecture, trainee: Trainee) -> None:
        self._config = json.loads(architecture.config)
        self._limit = architecture.max_tokens
        self._trainee = trainee
        self._known: dict[tuple[int, int], Sample] = {}
        self._counter: Any = None
        self._rule: _Rule | None = None
        self._tried = False

    def at(self, rows: int, tokens: int) -> Sample:
        """A step of so many sequences of so many tokens. Raises InputError where it cannot run."""
        if not self._tried:
            self._tried = True
            self._rule = self._find_rule()
        values = None if self._rule is None else self._rule.at(rows, tokens)
        if values is None:
            return self._counted(rows, tokens)
        return _rebuilt(self._counted(1, self._lengths()[0]), values)

    def _find_rule(self) -> "_Rule | None":
        lengths = self._lengths()
        if len(lengths) < 3:
            return None
        made = [[_flat(self._counted(rows, t)) for t in lengths] for rows in (1, 2)]
        rule = _Rule(lengths[0], lengths[1] - lengths[0], made)
        for rows, tokens in self._held_out():
            if rule.at(rows, tokens) != _flat(self._counted(rows, tokens)):
                return None
        return rule

    def _lengths(self) -> list[int]:
        """Equally spaced lengths that the rule is made from; too few in the shortest models."""
        gap = max(1, min(8, self._limit // 4))
        return [t for t in (gap, 2 * gap, 3 * gap) if t <= self._limit]

    def _held_out(self) -> Iterator[tuple[int, int]]:
        gap = self._lengths()[0]
        lengths = {5 * gap - 3, *chain.from_iterable(_around(w) for w in _windows(self._config))}
        for tokens in sorted(lengths):
            if 0 < tokens <= self._limit:
                yield 3, tokens

    def _counted(self, rows: int, tokens: int) -> Sample:
        from airtune.workload.counting.counter import Counter

        if (rows, tokens) not in self._known:
            try:
                self._counter = self._counter or Counter(self._config, self._trainee)
                self._known[rows, tokens] = self._counter.count(rows, tokens)
            except NotCountable as error:
                raise _uncountable(self._config, error) from error
        return self._known[rows, tokens]


def _windows(config: Mapping[str, Any]) -> Iterator[int]:
    """Lengths at which attention may change its kind."""
    for key, value in config.items():
        named = any(word in key for word in _WINDOWS)
        if named and isinstance(value, int) and not isinstance(value, bool) and value > 1:
            yield value


def _around(window: int) -> tuple[int, ...]:
    return window - 1, window + 1, 2 * window + 1


def _flat(sample: Sample) -> list[int]:
    rows = [adapted.rows for adapted in sample.adapted.values()]
    return [*sample.forward, *sample.backward, *sample.stored_bytes, *rows]


def _rebuilt(like: Sample, values: Sequence[int]) -> Sample:
    parts = len(like.forward)
    forward, backward, stored = (
        tuple(values[start : start + parts]) for start in (0, parts, 2 * parts)
    )
    rows = zip(like.adapted.items(), values[3 * parts :], strict=True)
    adapted = {path: one._replace(rows=count) for (path, one), count in rows}
    return replace(like, forward=forward, backward=backward, stored_bytes=stored, adapted=adapted)


@dataclass(frozen=True)
class _Rule:
    """Affine in rows and quadratic in tokens, through counts at 1 and 2 rows and three lengths.

    `made` has the axes [rows - 1, length, number]; lengths are `first`, `first + gap`,
    `first + 2 gap`.
    """

    first: int
    gap: int
    made: Sequence[Sequence[Sequence[int]]]

    def at(self, rows: int, tokens: int) -> list[int] | None:
        """The numbers at a shape; None where the rule gives no whole ones.

        Newton's form: v(s) = v0 + s (v1 - v0) + s (s - 1) / 2 (v2 - 2 v1 + v0), s in gaps.
        """
        s = Fraction(tokens - self.first, self.gap)
        one, two = (
            [_newton(s, *each) for each in zip(*lengths, strict=True)] for lengths in self.made
        )
        values = [a + (rows - 1) * (b - a) for a, b in zip(one, two, strict=True)]
        if any(value.denominator != 1 for value in values):
            return None
        return [int(value) for value in values]


def _newton(s: Fraction, v0: int, v1: int, v2: int) -> Fraction:
    return v0 + s * (v1 - v0) + s * (s - 1) / 2 * (v2 - 2 * v1 + v0)
