"""The sliced codec: exact bits before training, kept coordinates and nothing else."""

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from airtune.errors import InputError
from airtune.federated.checks.contracts import check_codec
from airtune.round_plan import ClientPlan
from airtune.tuning.pruning.importance import WeightImportance
from airtune.tuning.pruning.tuner import PrunedTuner, Slicer
from airtune.update.codec import DenseCodec, shapes_of
from airtune.update.means import OverlapMean
from airtune.update.partial import CountedSlices, SlicedCodec
from airtune.update.server import Update
from airtune.workload.adapter_shape import AdapterShape, adapter_parameters, adapter_tensors
from airtune.workload.architecture import pruned
from airtune.workload.decisions import distinct_rates
from airtune.workload.payload import flat_update_bits
from tests.tuning.test_pruning_tuner import MODELS, adapted, context_of, make_batch, random_state
from tests.workload.small_models import published

FAMILIES = ["gpt2", "opt with projections", "llama, query heads", "qwen3, groups", "phi"]
# Largest error of a number, as a share of the largest in its tensor (int8 shares scales across).
ERRORS = {"fp32": 0.0, "fp16": 2**-11, "bf16": 2**-8, "int8": 0.02}


def a_plan(rate: float, client: int = 1) -> ClientPlan:
    return ClientPlan(client, bandwidth_hz=1e6, tx_power_w=0.1, rank=3, pruning_rate=rate)


def slicer_of(name: str) -> tuple[Slicer, dict[str, Tensor]]:
    model = adapted(*MODELS[name])
    return Slicer(model, WeightImportance()), random_state(model, seed=2)


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.75])
@pytest.mark.parametrize("name", FAMILIES)
def test_contract(name: str, rate: float, dtype: str) -> None:
    slicer, start = slicer_of(name)
    plan, unbound = a_plan(rate), SlicedCodec(slicer, dtype)
    codec = unbound.in_round(start)
    kept = codec.trained(plan)
    change = {x: t * kept[x] for x, t in random_state(slicer.model, seed=3).items()}
    decoded = check_codec(codec, change, plan, idempotent=dtype != "int8")
    bits = unbound.payload_bits(shapes_of(change), plan)
    assert bits == 8 * len(codec.encode(change, plan)), "bits are known before the round"
    for key, value in change.items():
        assert not decoded[key][~kept[key]].any()
        assert ((decoded[key] - value).abs() <= ERRORS[dtype] * value.abs().max() + 1e-7).all()


def test_one_flat_tensor_and_rate_zero_is_dense() -> None:
    slicer, start = slicer_of("gpt2")
    codec = SlicedCodec(slicer).in_round(start)
    change = random_state(slicer.model, seed=3)
    assert list(load(codec.encode(change, a_plan(0.5)))) == ["update"]
    assert codec.encode(change, a_plan(0.0)) == DenseCodec().encode(change, a_plan(0.0))


def test_the_order_of_tensors_does_not_matter() -> None:
    """A resumed server has them in another order than its clients."""
    slicer, start = slicer_of("gpt2")
    turned = {name: start[name] for name in sorted(start, reverse=True)}
    codec, plan = SlicedCodec(slicer).in_round(start), a_plan(0.5)
    other = SlicedCodec(slicer_of("gpt2")[0]).in_round(turned)
    kept = codec.trained(plan)
    change = {x: t * kept[x] for x, t in random_state(slicer.model, seed=3).items()}
    decoded = other.decode(codec.encode(change, plan), shapes_of(turned), plan)
    assert list(decoded) == list(turned)
    assert all(torch.equal(decoded[name], change[name]) for name in change)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("name", ["gpt2", "llama-3.2-1b", "qwen3-0.6b", "gemma-2b", "opt-350m"])
def test_bits_of_published_shapes_are_the_workloads(name: str, rate: float) -> None:
    architecture, adapter = published(name), AdapterShape(rank=8)
    shapes = adapter_tensors(architecture, adapter)
    expected = adapter_parameters(pruned(architecture, rate), adapter)
    bits = SlicedCodec(CountedSlices(architecture), "bf16").payload_bits(shapes, a_plan(rate))
    assert bits == flat_update_bits(expected, "bf16")


def test_client_and_server_round_trip() -> None:
    """Two clients, two processes' worth of slicers: every coordinate arrives where it was made."""
    slicer, start = slicer_of("llama, groups")
    server_slicer, _ = slicer_of("llama, groups")
    server = SlicedCodec(server_slicer).in_round(start)
    updates, changes = [], []
    for client, rate in ((1, 0.25), (2, 0.75)):
        plan = a_plan(rate, client)
        context = context_of(slicer.model, [make_batch(client)] * 2)
        state = PrunedTuner(slicer).tune(start, plan, context).state
        change = {name: state[name] - value for name, value in start.items()}
        payload = SlicedCodec(slicer).in_round(start).encode(change, plan)
        decoded = server.decode(payload, shapes_of(start), plan)
        assert all(torch.equal(decoded[name], change[name]) for name in change)
        updates.append(Update(client, 1.0, decoded, server.trained(plan)))
        changes.append(change)
    merged = OverlapMean().aggregate(start, updates)
    wide, narrow = (server.trained(a_plan(rate)) for rate in (0.25, 0.75))
    for name, value in start.items():
        both, one = wide[name] & narrow[name], wide[name] & ~narrow[name]
        assert torch.equal(merged[name][~wide[name]], value[~wide[name]])
        torch.testing.assert_close(merged[name][one], (value + changes[0][name])[one])
        mean = value + (changes[0][name] + changes[1][name]) / 2
        torch.testing.assert_close(merged[name][both], mean[both])


def test_refusals() -> None:
    slicer, start = slicer_of("gpt2")
    with pytest.raises(InputError, match=r"codec\.dtype is int3, but it must be one of fp32"):
        SlicedCodec(slicer, "int3")
    codec = SlicedCodec(slicer).in_round(start)
    payload = codec.encode(start, a_plan(0.5))
    with pytest.raises(InputError, match="numbers, as the plan keeps"):
        codec.decode(payload, shapes_of(start), a_plan(0.25))
    with pytest.raises(InputError, match="payload is damaged"):
        codec.decode(payload[:-3], shapes_of(start), a_plan(0.5))
    with pytest.raises(ValueError, match="must be bound first"):
        SlicedCodec(slicer).encode(start, a_plan(0.5))


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_line_of_bits_lies_on_or_below_every_slice(name: str, dtype: str) -> None:
    """What makes a bound from the line hold for the payloads that are really sent."""
    slicer, start = slicer_of(name)
    codec, shapes = SlicedCodec(slicer, dtype), shapes_of(start)
    fixed, prunable = codec.affine_bits(shapes, a_plan(0.0))
    units = [rate for rate in distinct_rates(slicer.architecture) if rate < 1.0]
    assert len(units) > 2
    for rate in units:
        line, sent = fixed + (1 - rate) * prunable, codec.payload_bits(shapes, a_plan(rate))
        assert line <= sent
    whole = codec.payload_bits(shapes, a_plan(0.0))
    # A header of a few more digits, and the last block of int8's scales.
    assert fixed + prunable >= whole - 8 * 12 - 32
