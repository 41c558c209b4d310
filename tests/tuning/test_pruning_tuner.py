"""A pruned client computes what the whole model computes with the same units silenced."""

import gc
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from airtune.data.batches import Batch
from airtune.errors import InputError
from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import (
    AdapterSettings,
    AdapterState,
    attach,
    base_layer,
    block_matrix,
    load_state,
    read_state,
)
from airtune.tuning.base_model import BaseModel
from airtune.tuning.local import TrainingSettings, completion_loss, train_locally
from airtune.tuning.pruning.importance import WeightImportance
from airtune.tuning.pruning.slice import Slice, adapter_cuts, gather, scatter, whole_slice
from airtune.tuning.pruning.tuner import PrunedTuner, Slicer, sliced_model
from airtune.tuning.tuner import TuningContext, TuningJob
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import pruned_widths
from airtune.workload.step import Step
from airtune.workload.transformer import workload
from tests.models import small_model
from tests.rounding import assert_adam_step, assert_same_moments, by_name

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2 with 2 heads": ("gpt2", {"n_head": 2}),
    "opt": ("opt", {}),
    "opt with projections": ("opt", {"word_embed_proj_dim": 16}),
    "llama, query heads": ("llama", {}),
    "llama, groups": ("llama", {"num_attention_heads": 8, "num_key_value_heads": 4}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral, window": ("mistral", {"sliding_window": 5}),
    "mistral, groups": ("mistral", {"num_key_value_heads": 4}),
    "qwen2": ("qwen2", {}),
    "qwen2, groups": ("qwen2", {"num_attention_heads": 8, "num_key_value_heads": 4}),
    "qwen3": ("qwen3", {}),
    "qwen3, groups": ("qwen3", {"num_attention_heads": 8, "num_key_value_heads": 4}),
    "gemma, one KV head": ("gemma", {"num_key_value_heads": 1}),
    "gemma, groups": ("gemma", {"num_key_value_heads": 4}),
    "phi": ("phi", {}),
    "phi, query heads": ("phi", {"num_key_value_heads": 2, "qk_layernorm": True}),
    "gemma2": ("gemma2", {}),
    "gemma2, groups": ("gemma2", {"num_attention_heads": 8, "num_key_value_heads": 4}),
    "gemma3": ("gemma3_text", {}),
    "gemma3, groups": ("gemma3_text", {"num_key_value_heads": 4}),
    "phi3, query heads": ("phi3", {}),
    "phi3, groups": ("phi3", {"num_attention_heads": 8, "num_key_value_heads": 4}),
    "phi3, partly rotated": ("phi3", {"partial_rotary_factor": 0.5, "num_key_value_heads": 4}),
    "granite": ("granite", {}),
    "granite, groups with biases": (
        "granite",
        {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True},
    ),
    "smollm3": ("smollm3", {}),
    "smollm3, groups": ("smollm3", {"num_attention_heads": 8, "num_key_value_heads": 4}),
}
RATES = [0.25, 0.5, 0.75]
ALPHA = 6.0
TRAINING = TrainingSettings(learning_rate=0.02)


def make_batch(seed: int, rows: int = 3, tokens: int = 11) -> Batch:
    draws = np.random.default_rng(seed)
    ids = draws.integers(3, 96, size=(rows, tokens))
    real = np.ones_like(ids, dtype=np.bool_)
    real[0, -3:] = False
    labels = real.copy()
    labels[:, :4] = False
    return Batch(ids, real, labels)


def lively_model(family: str, **overrides: Any) -> Any:
    """Random weights large enough that every unit matters, biases and norms included."""
    model = small_model(family, **overrides)
    source = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.12 * torch.randn(parameter.shape, generator=source))
    return model


def adapted(family: str, overrides: dict[str, Any], **settings: Any) -> Any:
    base = BaseModel(lively_model(family, **overrides), None, "random")
    model = attach(base, AdapterSettings(rank=3, alpha=ALPHA, **settings))
    load_state(model, random_state(model))
    return model


def random_state(model: Any, seed: int = 1) -> AdapterState:
    source = torch.Generator().manual_seed(seed)
    return {
        name: 0.2 * torch.randn(tensor.shape, generator=source)
        for name, tensor in read_state(model).items()
    }


@contextmanager
def silenced(model: Any, part: Slice) -> Iterator[None]:
    """The whole model, with the outputs of removed heads and neurons set to zero."""
    structure, widths = part.architecture.structure, part.architecture.widths
    names = {linear.role.value: linear.name for linear in structure.linears}
    handles = []
    for index, kept in enumerate(part.blocks):
        heads = torch.zeros(widths.heads, widths.head_dim)
        heads[list(kept.query_heads)] = 1.0
        neurons = torch.zeros(widths.neurons)
        neurons[list(kept.neurons)] = 1.0
        for name, mask in ((names["output"], heads.reshape(-1)), (names["down"], neurons)):
            module = model.get_base_model().get_submodule(f"{structure.block_path}.{index}.{name}")
            handles.append(
                module.register_forward_pre_hook(lambda _, x, m=mask: (x[0] * m.to(x[0]),))
            )
    yield
    for handle in handles:
        handle.remove()


def loss_and_gradients(model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    total, count = completion_loss(model, batch)
    (total / count).backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    model.zero_grad(set_to_none=True)
    return total.detach() / count, dict(zip(read_state(model), gradients, strict=True))


def assert_pruned_equals_masked(model: Any, rate: float) -> None:
    batch, state = make_batch(3), read_state(model)
    part = Slicer(model, WeightImportance()).slice(state, rate)
    cuts = adapter_cuts(part, state)
    small = sliced_model(model, part)
    loss, gradients = loss_and_gradients(small, batch)
    with silenced(model, part):
        masked_loss, masked_gradients = loss_and_gradients(model, batch)
    _, whole_gradients = loss_and_gradients(model, batch)
    change = max(float((masked_gradients[x] - whole_gradients[x]).abs().max()) for x in state)
    assert change > 1e-2, "nothing was at stake"
    torch.testing.assert_close(loss, masked_loss, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        whole = masked_gradients[name]
        # Compared on the scale of the tensor: single entries may be sums of cancelling terms.
        scale = float(whole.abs().max())
        expected = gather({name: whole}, cuts)[name]
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5 * max(1.0, scale))
        torch.testing.assert_close(gradient / scale, expected / scale, rtol=1e-4, atol=2e-5)
        outside = scatter({name: whole}, cuts, {name: torch.zeros_like(gradient)})[name]
        assert not outside.any(), f"{name} would be trained outside its slice"


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", MODELS)
def test_pruned_equals_masked(name: str, rate: float) -> None:
    assert_pruned_equals_masked(adapted(*MODELS[name]), rate)


@pytest.mark.parametrize(
    "name",
    [
        "gpt2",
        "llama, query heads",
        "qwen3, groups",
        "opt",
        "phi",
        "phi3, query heads",
        "gemma3, groups",
        "smollm3",
    ],
)
def test_with_fused_attention(name: str) -> None:
    model = adapted(*MODELS[name])
    model.get_base_model().set_attn_implementation("sdpa")
    assert_pruned_equals_masked(model, 0.5)


@pytest.mark.parametrize("name", ["gpt2", "llama, query heads", "phi3, groups"])
def test_with_a_bf16_base(name: str) -> None:
    family, overrides = MODELS[name]
    base = lively_model(family, **overrides).to(torch.bfloat16)
    model = attach(BaseModel(base, None, "random"), AdapterSettings(rank=3, alpha=ALPHA))
    state, batch = random_state(model), make_batch(3)
    load_state(model, state)
    part = Slicer(model, WeightImportance()).slice(state, 0.5)
    loss, gradients = loss_and_gradients(sliced_model(model, part), batch)
    with silenced(model, part):
        masked_loss, masked = loss_and_gradients(model, batch)
    torch.testing.assert_close(loss, masked_loss, rtol=1e-2, atol=0)
    for key, expected in gather(masked, adapter_cuts(part, state)).items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(gradients[key] / scale, expected / scale, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("gpt2", ("c_attn",)),
        ("llama, query heads", ("q_proj", "v_proj")),
        ("qwen3", ("o_proj", "down_proj")),
        ("opt with projections", ("project_in", "fc1")),
        ("phi3, query heads", ("qkv_proj",)),
        ("phi3, groups", ("gate_up_proj", "down_proj")),
    ],
)
def test_only_some_matrices_adapted(name: str, targets: tuple[str, ...]) -> None:
    family, overrides = MODELS[name]
    assert_pruned_equals_masked(adapted(family, overrides, target_modules=targets), 0.5)


@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_really_smaller(name: str) -> None:
    model = adapted(*MODELS[name])
    slicer = Slicer(model, WeightImportance())
    small = sliced_model(model, slicer.slice(read_state(model), 0.5))
    architecture = slicer.architecture
    widths = pruned_widths(architecture.widths, 0.5)
    expected = sum(x.parameters(widths) for x in architecture.structure.linears)
    for index in range(architecture.block_count):
        path = f"{architecture.structure.block_path}.{index}"
        held = 0
        for linear in architecture.structure.linears:
            matrix = small.get_base_model().get_submodule(f"{path}.{linear.name}")
            layer = getattr(matrix, "base_layer", matrix)
            held += sum(p.numel() for p in layer.parameters())
        assert held == expected


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama, groups", "phi", "phi3, groups"])
def test_the_whole_model_can_be_let_go(name: str) -> None:
    """A device keeps the slice only, so nothing in it may hold the matrices it was cut from."""
    model = adapted(*MODELS[name])
    slicer = Slicer(model, WeightImportance())
    part = slicer.slice(read_state(model), 0.5)
    small = sliced_model(model, part)
    linears = part.architecture.structure.linears
    whole = [
        weakref.ref(base_layer(block_matrix(model, part.architecture, 0, linear)))
        for linear in linears
    ]
    del model, slicer
    gc.collect()
    assert not any(reference() for reference in whole)
    loss_and_gradients(small, make_batch(1))


@pytest.mark.parametrize("name", MODELS)
def test_operations_are_those_planned(name: str) -> None:
    model = adapted(*MODELS[name])
    slicer, batch = Slicer(model, WeightImportance()), make_batch(1)
    rows, tokens = batch.token_ids.shape
    # As many labels in every row, for the LM head runs on those positions only.
    real, labels = np.ones_like(batch.label_mask), np.zeros_like(batch.label_mask)
    labels[:, 4:] = True
    batch = Batch(batch.token_ids, real, labels)
    step = Step(rows, tokens, logit_positions=tokens - 4)
    for rate in (0.25, 0.75):
        small = sliced_model(model, slicer.slice(read_state(model), rate))
        with FlopCounterMode(display=False) as counter:
            loss_and_gradients(small, batch)
        plan = workload(slicer.architecture, AdapterShape(3), step, rate)
        assert counter.get_total_flops() == plan.flops


@pytest.mark.parametrize("name", ["gpt2", "llama, query heads", "phi"])
def test_rate_zero_is_the_whole_model(name: str) -> None:
    model, batch = adapted(*MODELS[name]), make_batch(4)
    state = read_state(model)
    slicer = Slicer(model, WeightImportance())
    part = slicer.slice(state, 0.0)
    assert part == whole_slice(slicer.architecture)
    small = sliced_model(model, part)
    shared = {id(p) for p in model.parameters() if not p.requires_grad}
    assert all(id(p) in shared for p in small.parameters() if not p.requires_grad)
    one, two = loss_and_gradients(small, batch), loss_and_gradients(model, batch)
    assert torch.equal(one[0], two[0])
    assert all(torch.equal(one[1][key], two[1][key]) for key in two[1])


def context_of(
    model: Any,
    batches: list[Batch],
    training: TrainingSettings = TRAINING,
    carried: Mapping[str, Tensor] = MappingProxyType({}),
) -> TuningContext:
    return TuningContext(model, batches, training, seed=5, round_index=2, carried=carried)


def a_plan(rate: float) -> ClientPlan:
    return ClientPlan(client=1, bandwidth_hz=1e6, tx_power_w=0.1, rank=3, pruning_rate=rate)


def everything_in(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.75])
@pytest.mark.parametrize(
    "name", ["gpt2", "opt with projections", "qwen3", "gemma, groups", "phi3, groups", "granite"]
)
def test_tuning_leaves_the_model_and_unkept_coordinates_alone(name: str, rate: float) -> None:
    model = adapted(*MODELS[name])
    before, modules = everything_in(model), [repr(module) for module in model.modules()]
    start = random_state(model, seed=9)
    slicer = Slicer(model, WeightImportance())
    result = PrunedTuner(slicer).tune(start, a_plan(rate), context_of(model, [make_batch(5)] * 3))
    assert result.losses[-1] < result.losses[0]
    kept = slicer.kept(start, rate)
    for key, value in start.items():
        assert result.state[key].shape == value.shape
        assert torch.equal(result.state[key][~kept[key]], value[~kept[key]])
        assert (result.state[key][kept[key]] != value[kept[key]]).any()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [repr(module) for module in model.modules()] == modules


def test_tuning_is_repeatable_and_rate_zero_is_the_full_tuner() -> None:
    model = adapted(*MODELS["llama, groups"], dropout=0.2)
    start, context = random_state(model, seed=9), context_of(model, [make_batch(5), make_batch(6)])
    tuner = PrunedTuner(Slicer(model, WeightImportance()))
    one, two = (tuner.tune(start, a_plan(0.5), context) for _ in range(2))
    assert one.losses == two.losses
    assert all(torch.equal(one.state[key], two.state[key]) for key in start)
    full = train_locally(model, start, context.batches, context.training, (5, 2, 1))
    none = tuner.tune(start, a_plan(0.0), context)
    assert none.losses == full.losses
    assert all(torch.equal(none.state[key], full.state[key]) for key in start)


def test_optimizer_moments_follow_the_coordinates() -> None:
    model = adapted(*MODELS["qwen2"])
    training = TrainingSettings(keep_optimizer=True, learning_rate=0.02)
    start, batches = random_state(model, seed=9), [make_batch(seed) for seed in (5, 6, 7, 8)]
    slicer = Slicer(model, WeightImportance())
    tuner, names = PrunedTuner(slicer), list(start)
    first = tuner.tune(start, a_plan(0.5), context_of(model, batches[:2], training))
    kept = slicer.kept(start, 0.5)
    for key, value in first.carried.items():
        index, _, entry = key.partition(".")
        if entry != "step":
            name = names[int(index)]
            assert value.shape == start[name].shape
            assert not value[~kept[name]].any()
            assert value[kept[name]].any()
    # Same slice again: continues exactly where it was.
    frozen: Any = _Fixed(slicer, start)
    whole = PrunedTuner(frozen).tune(start, a_plan(0.5), context_of(model, batches, training))
    half = PrunedTuner(frozen).tune(start, a_plan(0.5), context_of(model, batches[:2], training))
    rest = PrunedTuner(frozen).tune(
        half.state, a_plan(0.5), context_of(model, batches[2:], training, carried=half.carried)
    )
    assert all(torch.equal(rest.state[key], whole.state[key]) for key in start)
    assert all(torch.equal(rest.carried[key], whole.carried[key]) for key in whole.carried)
    # A file gives the tensors back in another order.
    other = {key: half.state[key] for key in sorted(half.state, reverse=True)}
    again = PrunedTuner(frozen).tune(
        other, a_plan(0.5), context_of(model, batches[2:], training, carried=half.carried)
    )
    assert list(again.state) == list(other)
    assert all(torch.equal(again.state[key], whole.state[key]) for key in start)
    # Another slice: moments outside it are kept for later.
    wider = tuner.tune(start, a_plan(0.0), context_of(model, batches, training))
    later = tuner.tune(
        start, a_plan(0.5), context_of(model, batches[:1], training, carried=wider.carried)
    )
    for key, value in wider.carried.items():
        name = names[int(key.partition(".")[0])]
        if value.dim():
            assert torch.equal(later.carried[key][~kept[name]], value[~kept[name]])


class _Fixed:
    """A slicer that goes on using the slice of one adapter."""

    def __init__(self, slicer: Slicer, state: AdapterState) -> None:
        self.slicer, self.state = slicer, state

    def slice(self, broadcast: Any, pruning_rate: float) -> Slice:
        return self.slicer.slice(self.state, pruning_rate)


def test_the_slice_follows_the_adapter() -> None:
    model = adapted(*MODELS["gpt2"])
    start = read_state(model)
    slicer = Slicer(model, WeightImportance())
    part = slicer.slice(start, 0.5)
    heads = [set(block.query_heads) for block in part.blocks]
    removed = next(iter(set(range(4)) - heads[0]))
    # Make the removed head of the first block loud, through LoRA's B of queries alone.
    name = "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"
    louder = {**start, name: start[name].clone()}
    louder[name][removed * 8 : removed * 8 + 8] += 20.0
    assert removed in slicer.slice(louder, 0.5).blocks[0].query_heads
    assert slicer.slice(start, 0.5) == part


def test_a_model_that_is_not_its_architecture_is_refused() -> None:
    model = adapted(*MODELS["llama, groups"])
    part = Slicer(model, WeightImportance()).slice(read_state(model), 0.5)
    model.get_base_model().model.layers[1].self_attn.head_dim = 5
    with pytest.raises(InputError, match=r"config\.head_dim is 4, but it must be 5"):
        sliced_model(model, part)


@pytest.mark.parametrize("family", ["olmo2", "qwen3_moe"])
def test_families_that_cannot_be_pruned_are_refused(family: str) -> None:
    model = adapted(family, {})
    with pytest.raises(InputError, match=f"model is {family}, but it must be one of whose blocks"):
        Slicer(model, WeightImportance())


def test_clients_of_one_rate_are_a_stack() -> None:
    model = adapted(*MODELS["llama, groups"])
    start = random_state(model, seed=9)
    tuner = PrunedTuner(Slicer(model, WeightImportance()))
    training = TrainingSettings(keep_optimizer=True, learning_rate=0.02)
    kept, names = tuner.slicer.kept(start, 0.5), list(read_state(model))
    carried: Mapping[str, Tensor] = {}
    for turn in range(2):
        jobs = [
            TuningJob(
                start,
                a_plan(0.5),
                context_of(model, [make_batch(10 * c + turn)], training, moments),
            )
            for c, moments in enumerate((carried, {}, {}))
        ]
        assert tuner.stackable(jobs[0].plan, jobs[0].context) == 0.5
        expected = [tuner.tune(job.start, job.plan, job.context) for job in jobs]
        for one, other in zip(tuner.tune_stack(jobs), expected, strict=True):
            assert one.losses == pytest.approx(other.losses, rel=1e-5)
            assert_same_moments(one.carried, other.carried)
            for result in (one, other):
                # Where nothing is kept, nothing moves, whatever the moments of a wider slice say.
                moments = by_name(result.carried, names)
                for name, mask in kept.items():
                    for entry in ("exp_avg", "exp_avg_sq"):
                        moments[name][entry] = moments[name][entry] * mask
                assert_adam_step(start, result.state, moments, training.learning_rate)
        # The second turn continues from moments of a wider slice.
        carried = tuner.tune(start, a_plan(0.0), jobs[0].context).carried


def test_clients_of_different_slices_are_no_stack() -> None:
    model = adapted(*MODELS["gpt2"])
    tuner = PrunedTuner(Slicer(model, WeightImportance()))
    jobs = [
        TuningJob(random_state(model, seed), a_plan(0.5), context_of(model, [make_batch(1)]))
        for seed in (1, 2)
    ]
    slices = [tuner.slicer.slice(job.start, 0.5) for job in jobs]
    assert slices[0] != slices[1]
    for job, result in zip(jobs, tuner.tune_stack(jobs), strict=True):
        alone = tuner.tune(job.start, job.plan, job.context)
        assert all(torch.equal(result.state[key], alone.state[key]) for key in alone.state)
