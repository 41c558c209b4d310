"""What a round requires of its parts: that each answers, with finite numbers and plain values.

A part that raises becomes a sentence with part, round and client; numbers that are infinite or not
a number are a `DivergedError`, so that the run ends there with everything before it kept.

What is recorded and checkpointed is JSON. Planners compute with numpy, whose scalars JSON does not
know; they become Python's. Anything else that is out of place in a plan is a TypeError that names
the field, raised inside `asked`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from airtune.errors import AirtuneError, DivergedError, foreign_error
from airtune.round_plan import MAIN_SERVER, ClientPlan, Plan, SubchannelShare

_DIVERGED = "Training diverged in round"
LESS = "lower training.learning_rate, or limit training.max_grad_norm"
OTHER_FORMAT = "send it as bf16 or fp32, or lower training.learning_rate"


def party(client: int) -> str:
    """How a sentence names a party of a round."""
    return "the main server" if client == MAIN_SERVER else f"client {client}"


class asked:
    """Around what a part does in a round: `planner`, `tuner`, `codec`, …

    AirtuneError for whatever it raises. Errors of airtune pass, a `DivergedError` from inside a
    part with the round and the client. Entered for every client and number, so it does nothing
    before something is raised.
    """

    __slots__ = ("_asked",)

    def __init__(
        self, kind: str, part: object, round_index: int, client: int | None = None
    ) -> None:
        self._asked = kind, part, round_index, client

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if error is not None:
            _refuse(error, *self._asked)


def _refuse(
    error: BaseException, kind: str, part: object, round_index: int, client: int | None
) -> None:
    """Raise what an exception of a part becomes; return where it passes as it is."""
    whom = "" if client is None else f" for {party(client)}"
    if isinstance(error, DivergedError) and not str(error).startswith(_DIVERGED):
        raise DivergedError(f"{_DIVERGED} {round_index + 1}{whom}: {error}") from error
    cls = type(part) if not hasattr(part, "__qualname__") else part
    name = f"{getattr(cls, '__module__', '')}:{getattr(cls, '__qualname__', kind)}"
    ours = name.startswith("airtune.")
    remedy = (
        "this is a fault of airtune: please report it"
        if ours
        else ("mend it, then run the command again, or `airtune resume` a run that has begun")
    )
    place = f"The {kind} {name} in round {round_index + 1}{whom}"
    raised = foreign_error(error, place, remedy)
    if raised is not None:
        raise raised from error


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


def plain_plan(plan: object) -> Plan:
    """The plan with plain numbers, lists as tuples. TypeError for what is not a plan."""
    if not isinstance(plan, Plan):
        raise TypeError(f"it answered a {type(plan).__name__} in the place of a Plan")
    main = plan.main_server
    return replace(
        plan,
        clients=tuple(map(_client, _sequence(plan.clients, "clients"))),
        predicted_latency_s=_number(plan.predicted_latency_s, "predicted_latency_s"),
        lower_bound_s=_optional(plan.lower_bound_s, "lower_bound_s"),
        predicted_energy_j=_optional(plan.predicted_energy_j, "predicted_energy_j"),
        status=_text(plan.status, "status"),
        message=_text(plan.message, "message"),
        skipped={
            _whole(client, "a client of skipped"): _text(reason, "a reason in skipped")
            for client, reason in plan.skipped.items()
        },
        main_server=None if main is None else _client(main),
        extras={
            _text(name, "a name in extras"): _optional(value, f"extras.{name}")
            for name, value in plan.extras.items()
        },
    )


def plain_state(state: Any, place: str = "its state") -> Any:
    """A planner's state as it can be kept. TypeError for values that a checkpoint cannot hold."""
    if isinstance(state, Mapping):
        return {
            _text(key, f"a name in {place}"): plain_state(value, f"{place}.{key}")
            for key, value in state.items()
        }
    if isinstance(state, list | tuple):
        return [plain_state(value, place) for value in state]
    if state is None or isinstance(state, str | bool):
        return state
    return _number(state, place)


def _client(entry: object) -> ClientPlan:
    if not isinstance(entry, ClientPlan):
        raise TypeError(f"clients of its plan has a {type(entry).__name__}, not a ClientPlan")
    if _is_plain(entry):
        return entry
    client = _whole(entry.client, "client")
    who = f" of client {client}"
    cut, kept, sketch = entry.split_point, entry.kept_ranks, entry.sketch
    return replace(
        entry,
        client=client,
        bandwidth_hz=_number(entry.bandwidth_hz, f"bandwidth_hz{who}"),
        tx_power_w=_number(entry.tx_power_w, f"tx_power_w{who}"),
        rank=_whole(entry.rank, f"rank{who}"),
        pruning_rate=_number(entry.pruning_rate, f"pruning_rate{who}"),
        sparsity=_number(entry.sparsity, f"sparsity{who}"),
        split_point=None if cut is None else _whole(cut, f"split_point{who}"),
        main=_subchannels(entry.main, f"main{who}"),
        federated=_subchannels(entry.federated, f"federated{who}"),
        kept_ranks=None if kept is None else _counts(kept, f"kept_ranks{who}"),
        downlink_share=_optional(entry.downlink_share, f"downlink_share{who}"),
        gets_half=bool(entry.gets_half),
        sends_half=bool(entry.sends_half),
        speed=_number(entry.speed, f"speed{who}"),
        sketch=None if sketch is None else _whole(sketch, f"sketch{who}"),
        cut_dropout=_number(entry.cut_dropout, f"cut_dropout{who}"),
        cut_format=(
            None if entry.cut_format is None else _text(entry.cut_format, f"cut_format{who}")
        ),
    )


def _is_plain(entry: ClientPlan) -> bool:
    """Whether all numbers are Python's own already, in a plan without what few plans have."""
    return (
        type(entry.client) is int
        and type(entry.bandwidth_hz) is float
        and type(entry.tx_power_w) is float
        and type(entry.rank) is int
        and type(entry.pruning_rate) is float
        and type(entry.sparsity) is float
        and type(entry.speed) is float
        and type(entry.cut_dropout) is float
        and entry.gets_half is True
        and entry.sends_half is True
        and entry.main is None
        and entry.federated is None
        and entry.kept_ranks is None
        and entry.split_point is None
        and entry.sketch is None
        and entry.cut_format is None
        and entry.downlink_share is None
    )


def _subchannels(share: object, place: str) -> SubchannelShare | None:
    if share is None:
        return None
    if not isinstance(share, SubchannelShare):
        raise TypeError(f"{place} is a {type(share).__name__}, not a SubchannelShare")
    densities = _sequence(share.psd_w_per_hz, f"psd_w_per_hz of {place}")
    return SubchannelShare(
        _counts(share.subchannels, f"subchannels of {place}"),
        tuple(_number(density, f"psd_w_per_hz of {place}") for density in densities),
    )


def _counts(value: object, place: str) -> tuple[int, ...]:
    return tuple(_whole(count, place) for count in _sequence(value, place))


def _sequence(value: object, place: str) -> tuple[Any, ...]:
    try:
        return tuple(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{place} is {value!r}, not a tuple") from None


def _whole(value: object, place: str) -> int:
    if not isinstance(value, Integral):
        raise TypeError(f"{place} is {value!r}, not a whole number")
    return int(value)


def _number(value: object, place: str) -> float:
    """A float, or an int where it was one."""
    if isinstance(value, Integral):
        return int(value)
    if not isinstance(value, Real):
        raise TypeError(f"{place} is {value!r}, not a number")
    return float(value)


def _optional(value: object, place: str) -> float | None:
    return None if value is None else _number(value, place)


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{place} is {value!r}, not a text")
    return value
