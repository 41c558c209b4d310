"""What is counted of one step, and of which model; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class NotCountable(Exception):
    """The module cannot be made, or cannot be run without numbers; the text says why."""


@dataclass(frozen=True)
class Trainee:
    """What is trained while counting: LoRA of rank 1 on these matrices, or everything."""

    paths: tuple[str, ...]
    frozen_a: bool = False
    whole: bool = False
    dtype: str = "fp32"
    attention: str = "sdpa"


class Adapted(NamedTuple):
    """A matrix under an adapter: the rows that pass through it in a step, whether its input needs a
    gradient, and the part of the model in which it runs."""

    rows: int
    needs: bool
    part: int


@dataclass(frozen=True)
class Sample:
    """One forward and backward pass: FLOPs and bytes kept, each with the axis [part]."""

    forward: tuple[int, ...]
    backward: tuple[int, ...]
    stored_bytes: tuple[int, ...]
    adapted: Mapping[str, Adapted]
