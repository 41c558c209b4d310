"""What each kind of part must keep, as checks that a part passes or that name what it broke.

The tests of the shipped parts use them, and `airtune check-part` for user-defined ones.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from airtune.errors import AirtuneError
from airtune.federated.checks.guard import plain_plan, plain_state
from airtune.federated.method import Planner, PlannerState
from airtune.federated.view import PlanningView
from airtune.round_plan import ClientPlan
from airtune.tuning.tuner import Tuner, TuningJob
from airtune.update.codec import Codec, Shapes, TensorMap, shapes_of
from airtune.update.server import Aggregator, Update
from airtune.update.weighting import shares_of

STACK_TOLERANCE = 2e-4
"""Of a stack against clients one by one, relative to the largest change."""


class BrokenContractError(AirtuneError):
    """A part broke what its base class promises; the message is one sentence."""


def require(kept: bool, sentence: str) -> None:
    """Raise BrokenContractError with this sentence unless `kept`."""
    if not kept:
        raise BrokenContractError(sentence)


def equal_tensors(one: TensorMap, other: TensorMap) -> bool:
    """Whether names, shapes, types and every number are the same."""
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def _copied(tensors: TensorMap) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def check_codec(
    codec: Codec, change: TensorMap, plan: ClientPlan, *, idempotent: bool = True
) -> dict[str, Tensor]:
    """Predicted bits are encoded bits; decoding keeps names and shapes; encoding is deterministic.

    What is outside the payload's own mask is 0. A codec that is not `idempotent` rounds at random,
    so that encoding the decoded change again may give other bytes. Returns what was decoded.
    """
    before, shapes = _copied(change), shapes_of(change)
    payload = codec.encode(change, plan)
    require(equal_tensors(change, before), "encode alters the change that it is given.")
    require(payload == codec.encode(change, plan), "encode answers other bytes the second time.")
    bits, said = 8 * len(payload), codec.payload_bits(shapes, plan)
    require(bits == said, f"payload_bits answers {said}, but encode made {bits} bit.")
    decoded = codec.decode(payload, shapes, plan)
    require(
        shapes_of(decoded) == shapes and list(decoded) == list(change),
        "decode answers other names or shapes than the template's.",
    )
    require(
        all(tensor.dtype == torch.float32 for tensor in decoded.values()),
        "decode answers numbers that are not fp32.",
    )
    sent = codec.sent(payload, shapes, plan)
    if sent is not None:
        require(shapes_of(sent) == shapes, "sent answers other names or shapes.")
        stray = any(bool(decoded[name][~sent[name]].any()) for name in change)
        require(not stray, "decode answers a change where sent says that nothing was sent.")
    if idempotent:
        again = codec.encode(decoded, plan)
        require(again == payload, "encoding what was decoded gives other bytes.")
    return decoded


def check_affine_bits(codec: Codec, shapes: Shapes, plan: ClientPlan) -> None:
    """The planner's line is never above the payload."""
    fixed, prunable = codec.affine_bits(shapes, plan)
    line = fixed + (1 - plan.pruning_rate) * prunable
    bits = codec.payload_bits(shapes, plan)
    require(
        line <= bits * (1 + 1e-12), f"affine_bits answers {line:g} bit for a payload of {bits} bit."
    )


def check_tuner(tuner: Tuner, jobs: Sequence[TuningJob]) -> None:
    """Training is repeatable, leaves the broadcast as it was, and keeps names and shapes; a stack
    answers what clients one by one do."""
    answers = []
    for job in jobs:
        before = _copied(job.start)
        first = tuner.tune(job.start, job.plan, job.context)
        require(equal_tensors(job.start, before), "tune alters the adapter that it starts from.")
        second = tuner.tune(job.start, job.plan, job.context)
        require(
            equal_tensors(first.state, second.state) and first.losses == second.losses,
            "tune answers otherwise the second time: draw from (seed, round, client) alone.",
        )
        require(
            shapes_of(first.state) == shapes_of(job.start),
            "tune answers other names or shapes than it was given.",
        )
        still = [n for n in job.start if any(part in n for part in tuner.freezes)]
        require(
            all(torch.equal(first.state[name], before[name]) for name in still),
            "tune trains tensors that freezes says it never trains.",
        )
        answers.append(first.state)
    keys = [tuner.stackable(job.plan, job.context) for job in jobs]
    if len(jobs) > 1 and keys[0] is not None and len(set(keys)) == 1:
        for job, alone, stacked in zip(jobs, answers, tuner.tune_stack(jobs), strict=True):
            _alike(job.start, alone, stacked.state)


def _alike(start: TensorMap, alone: TensorMap, stacked: TensorMap) -> None:
    require(shapes_of(alone) == shapes_of(stacked), "tune_stack answers other names or shapes.")
    largest = max(float((alone[name] - start[name]).abs().max()) for name in start)
    off = max(float((alone[name] - stacked[name]).abs().max()) for name in start)
    require(
        off <= STACK_TOLERANCE * max(largest, 1e-12),
        f"tune_stack is off what tune answers by {off:.1e}, of changes of up to {largest:.1e}.",
    )


def check_aggregator(
    aggregator: Aggregator, state: TensorMap, updates: Sequence[Update]
) -> dict[str, Tensor]:
    """Merging is repeatable, leaves its arguments, keeps names and shapes, and follows the clients'
    weights by their ratios. Returns what was merged."""
    require(
        equal_tensors(aggregator.aggregate(state, []), state),
        "aggregate without updates answers another adapter.",
    )
    before, given = _copied(state), copy.deepcopy(list(updates))
    merged = aggregator.aggregate(state, updates)
    kept = all(
        equal_tensors(update.change, old.change) for update, old in zip(updates, given, strict=True)
    )
    require(equal_tensors(state, before) and kept, "aggregate alters what it is given.")
    require(
        equal_tensors(merged, aggregator.aggregate(state, updates)),
        "aggregate answers otherwise the second time.",
    )
    require(shapes_of(merged) == shapes_of(state), "aggregate answers other names or shapes.")
    finite = all(bool(tensor.isfinite().all()) for tensor in merged.values())
    require(finite, "aggregate answers numbers that are not finite.")
    heavier = [replace(update, weight=8 * update.weight) for update in updates]
    others = aggregator.aggregate(state, heavier)
    alike = all(torch.allclose(merged[name], others[name], rtol=1e-4, atol=1e-7) for name in merged)
    require(alike, "aggregate answers otherwise where all clients have eight times as many rows.")
    _check_unchanged(aggregator, state, updates)
    _check_shares(aggregator, state, updates)
    return merged


def _check_unchanged(aggregator: Aggregator, state: TensorMap, updates: Sequence[Update]) -> None:
    """What `keeps_unchanged` says."""
    if not aggregator.keeps_unchanged:
        return
    name = next(iter(state))
    still = [
        replace(update, change={**update.change, name: torch.zeros_like(update.change[name])})
        for update in updates
    ]
    merged = aggregator.aggregate(state, still)
    require(
        torch.equal(merged[name], state[name]),
        f"aggregate moves {name}, which no client changed, although it keeps_unchanged.",
    )


def _check_shares(aggregator: Aggregator, state: TensorMap, updates: Sequence[Update]) -> None:
    """What `uses_shares` says: shares count, whatever the weights."""
    if not aggregator.uses_shares or not updates:
        return
    plain = [
        replace(update, share=share)
        for update, share in zip(updates, shares_of(updates), strict=True)
    ]
    merged, others = aggregator.aggregate(state, updates), aggregator.aggregate(state, plain)
    alike = all(torch.allclose(merged[name], others[name], rtol=1e-4, atol=1e-7) for name in merged)
    require(alike, "aggregate answers otherwise where weights are given as shares.")
    none = aggregator.aggregate(state, [replace(update, share=0.0) for update in updates])
    require(
        aggregator.refactors
        or all(torch.allclose(none[name], state[name], rtol=1e-6, atol=1e-9) for name in state),
        "aggregate moves the adapter with shares of 0.",
    )


def check_planner(planner: Planner, view: PlanningView, state: PlannerState) -> None:
    """The same view gives the same plan; the state is JSON and left as it was."""
    before = copy.deepcopy(dict(state))
    first = plain_plan(planner.plan(view, state))
    require(dict(state) == before, "plan alters the state that it is given.")
    second = plain_plan(planner.plan(view, state))
    require(first == second, "plan answers otherwise for the same view and state.")
    kept = plain_state(dict(planner.with_reports(state, {})))
    require(json.loads(json.dumps(kept)) == kept, "its state does not survive JSON.")
