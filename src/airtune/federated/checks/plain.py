"""A planner's answers as plain Python values: what is recorded and checkpointed is JSON.

Planners compute with numpy, whose scalars JSON does not know; they become Python's. Anything else
that is out of place is a TypeError that names the field, raised inside `guard.asked`.
"""

from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

from airtune.round_plan import ClientPlan, Plan, SubchannelShare


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
    client = _whole(entry.client, "client")
    who = f" of client {client}"
    cut, kept = entry.split_point, entry.kept_ranks
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
