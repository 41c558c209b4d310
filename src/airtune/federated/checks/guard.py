"""What a round asks of its parts: that each answers, and that the answers are finite numbers.

A part that raises becomes a sentence with part, round and client; numbers that are infinite or not
a number are a `DivergedError`, so that the run ends there with everything before it kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any

from torch import Tensor

from airtune.errors import AirtuneError, DivergedError
from airtune.foreign import foreign_code
from airtune.round_plan import MAIN_SERVER

_DIVERGED = "Training diverged in round"
LESS = "lower training.learning_rate, or limit training.max_grad_norm"
OTHER_FORMAT = "send it as bf16 or fp32, or lower training.learning_rate"


def party(client: int) -> str:
    """How a sentence names a party of a round."""
    return "the main server" if client == MAIN_SERVER else f"client {client}"


@contextmanager
def asked(kind: str, part: object, round_index: int, client: int | None = None) -> Iterator[None]:
    """Around what a part does in a round: `planner`, `tuner`, `codec`, …

    AirtuneError for whatever it raises. Errors of airtune pass, a `DivergedError` from inside a
    part with the round and the client.
    """
    cls = type(part) if not hasattr(part, "__qualname__") else part
    name = f"{getattr(cls, '__module__', '')}:{getattr(cls, '__qualname__', kind)}"
    ours = name.startswith("airtune.")
    remedy = "this is a fault of airtune: please report it" if ours else (
        "mend it, then run the command again, or `airtune resume` a run that has begun"
    )  # fmt: skip
    whom = "" if client is None else f" for {party(client)}"
    try:
        with foreign_code(f"The {kind} {name} in round {round_index + 1}{whom}", remedy):
            yield
    except DivergedError as error:
        if str(error).startswith(_DIVERGED):
            raise
        raise DivergedError(f"{_DIVERGED} {round_index + 1}{whom}: {error}") from error


def check_tensors(answer: Any, like: Mapping[str, Any], part: bool = False) -> None:
    """ValueError, inside `asked`, for an adapter with other names or shapes than it must have.

    `part`: some of the tensors suffice, as the half that a client of a split model holds.
    """
    known = isinstance(answer, Mapping) and set(answer) <= set(like)
    if not known or not (part or len(answer) == len(like)):
        raise ValueError("its answer does not have the names of the adapter's tensors")
    for name in answer:
        shape = tuple(getattr(like[name], "shape", like[name]))
        if tuple(answer[name].shape) != shape:
            raise ValueError(f"{name} has the shape {tuple(answer[name].shape)}, not {shape}")


def check_finite(tensors: Mapping[str, Tensor], what: str, round_index: int, remedy: str) -> None:
    """DivergedError for the first tensor that is not finite; `what` is the subject."""
    for tensor in tensors.values():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise DivergedError(f"{_DIVERGED} {round_index + 1}: {what} is not finite: {remedy}.")


def check_losses(losses: Sequence[float], client: int, round_index: int) -> None:
    """DivergedError for a local step whose loss is infinite or not a number."""
    for step, loss in enumerate(losses):
        if not isfinite(loss):
            raise DivergedError(
                f"{_DIVERGED} {round_index + 1}: the loss of {party(client)} in its "
                f"local step {step + 1} is {loss}: {LESS}."
            )


def check_test_loss(loss: float, round_index: int) -> None:
    """DivergedError where the test loss is infinite or not a number."""
    if not isfinite(loss):
        raise DivergedError(
            f"{_DIVERGED} {round_index + 1}: the test loss after it is {loss}, "
            f"though every update was finite: {LESS}."
        )


def check_reported(said: Mapping[int, Sequence[float]], round_index: int) -> None:
    """DivergedError for a client that reports something infinite or not a number."""
    for client, numbers in said.items():
        if not all(map(isfinite, numbers)):
            raise DivergedError(
                f"{_DIVERGED} {round_index + 1}: what {party(client)} reports of "
                f"its update is not finite: {LESS}."
            )


def where_finite(value: Any) -> Any:
    """A measurement with None in the place of numbers that are infinite or not a number."""
    if isinstance(value, Mapping):
        return {key: where_finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [where_finite(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def check_record(record: Any, round_index: int, place: str = "") -> None:
    """AirtuneError, naming the field, for a record that JSON could not hold."""
    parts: Any = ()
    if isinstance(record, Mapping):
        parts = record.items()
    elif isinstance(record, list | tuple):
        parts = enumerate(record)
    elif isinstance(record, float) and not isfinite(record):
        raise AirtuneError(
            f"Round {round_index + 1} cannot be recorded, for its {place} is {record}: look for a "
            "key that makes a time, an energy or a payload as large as that."
        )
    for key, part in parts:
        check_record(part, round_index, f"{place}.{key}" if place else str(key))
