"""A quantised base: its numbers by hand, its products, stacks, sharing, merging, and refusals."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("bitsandbytes", reason="needs airtune[quant]")

from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from airtune.errors import InputError
from airtune.tuning import quantised as module
from airtune.tuning.adapter import initial_state, load_state, merged, read_state
from airtune.tuning.base_model import load_base, map_weights, share_weights
from airtune.tuning.local import TrainingSettings, train_locally
from airtune.tuning.pruning.tuner import low_rank_model
from airtune.tuning.quantised import (
    Int8Linear,
    Nf4Linear,
    QuantisedLinear,
    dequantise,
)
from airtune.tuning.quantiser import quantised, scale_table
from airtune.tuning.split.client import SplitClient
from airtune.tuning.split.model import SplitModel
from airtune.tuning.split.round import SplitSettings, split_round
from airtune.tuning.stack import train_stacked
from airtune.tuning.stacked_linear import refuses_stacking
from airtune.update.cut import CutCodec
from tests.models import CONFIGS, small_model
from tests.rounding import assert_same_sgd_step
from tests.tuning.quantised_models import KINDS, quantised_model, quantised_peft
from tests.tuning.test_batched import SETTINGS, assert_same, case, one_by_one
from tests.tuning.test_shared_weights import is_shared

# Dettmers et al., QLoRA, arXiv 2305.14314, appendix E, as printed there.
NF4_VALUES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
SHAPES = [(128, 352), (64, 96), (10, 80), (3, 64), (5, 8), (7, 9), (1, 1)]
"""Rows longer than a block and shorter, blocks that cross rows, and an odd number of numbers."""


def weights(shape: tuple[int, int], seed: int = 0) -> Tensor:
    """Blocks of different magnitudes, and a row of zeros where there are several."""
    draws = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=draws) * torch.linspace(0.2, 2.0, shape[0])[:, None]
    if shape[0] > 2:
        values[1] = 0.0
    return values


def nf4_layer(weight: Tensor) -> Nf4Linear:
    return Nf4Linear(weight, None, False, nn.Parameter(scale_table(), requires_grad=False))


def layer_of(dtype: str, weight: Tensor) -> QuantisedLinear:
    return nf4_layer(weight) if dtype == "nf4" else Int8Linear(weight, None, False)


@pytest.mark.parametrize("shape", SHAPES)
def test_nf4_by_hand(shape: tuple[int, int]) -> None:
    weight = weights(shape)
    layer = nf4_layer(weight)
    flat = weight.numpy().reshape(-1)
    blocks = [flat[start : start + 64] for start in range(0, len(flat), 64)]
    highest = np.array([np.abs(block).max() for block in blocks])
    bytes_ = layer.weight.numpy()
    codes = np.stack([bytes_ >> 4, bytes_ & 15], axis=1).reshape(-1)[: len(flat)]
    values = np.array(NF4_VALUES)
    for number, block in enumerate(blocks):
        scaled = block / (highest[number] or 1.0)
        # Ties may go either way.
        chosen = values[codes[64 * number : 64 * number + len(block)]]
        best = np.abs(scaled[:, None] - values).min(axis=1)
        np.testing.assert_allclose(np.abs(scaled - chosen), best, atol=1e-6)
    # Scales in 8 bits: off by half the widest gap of their table, times the largest of a group.
    table, mean = scale_table().numpy(), float(layer.mean_scale)
    assert mean == pytest.approx(highest.mean(), rel=1e-6)
    found = (
        table[layer.scales.numpy()] * np.repeat(layer.scale_of_scales.numpy(), 256)[: len(blocks)]
    )
    allowed = np.diff(table).max() / 2 * np.abs(highest - mean).max() + 1e-6
    np.testing.assert_allclose(found + mean, highest, atol=allowed)
    expected = values[codes] * np.repeat(found + mean, 64)[: len(flat)]
    matrix = layer.matrix(torch.float32).numpy()
    assert matrix.shape == shape
    np.testing.assert_allclose(matrix.reshape(-1), expected, atol=1e-6)
    np.testing.assert_array_equal(matrix[1:2][weight[1:2] == 0], 0.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_by_hand(shape: tuple[int, int]) -> None:
    weight = weights(shape)
    layer = Int8Linear(weight, None, False)
    rounded = weight.half().float().numpy()
    highest = np.abs(rounded).max(axis=1, keepdims=True)
    ideal = np.divide(127 * rounded, highest, where=highest > 0, out=np.zeros(shape, np.float32))
    codes = layer.weight.numpy().astype(np.float32)
    assert np.abs(codes - ideal).max() <= 0.5 + 127 * 2.0**-11  # bitsandbytes divides in fp16
    np.testing.assert_array_equal(layer.scales.numpy(), highest[:, 0])
    np.testing.assert_allclose(
        layer.matrix(torch.float32).numpy(), codes * highest / 127, rtol=1e-6, atol=0
    )
    for dtype in (torch.bfloat16, torch.float16):
        torch.testing.assert_close(
            layer.matrix(dtype), layer.matrix(torch.float32).to(dtype), rtol=0, atol=0
        )


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_parts_are_those_that_transformers_loads(
    family: str, dtype: str, tmp_path: Path
) -> None:
    small_model(family).save_pretrained(tmp_path)
    own = quantised_model(family, dtype)
    settings = (
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
        if dtype == "nf4"
        else BitsAndBytesConfig(load_in_8bit=True)
    )
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=settings, dtype=torch.float32, device_map="cpu"
    )
    found = {name: layer for name, layer in own.named_modules() if is_quantised(layer)}
    for name, layer in found.items():
        other = theirs.get_submodule(name)
        assert torch.equal(layer.weight.reshape(-1), other.weight.data.reshape(-1))
        state = other.weight.quant_state if dtype == "nf4" else None
        if state is not None:
            assert torch.equal(layer.scales, state.absmax)
            torch.testing.assert_close(layer.scale_of_scales, state.state2.absmax)
            torch.testing.assert_close(layer.mean_scale[0], state.offset)
            assert torch.equal(layer.table, state.state2.code)
        else:
            assert torch.equal(layer.scales, other.weight.SCB)
    # The same layers, and the same rest: LM head, embeddings, norms.
    linears = (nn.Linear, Conv1D)
    kept = {n for n, layer in own.named_modules() if isinstance(layer, linears)} - set(found)
    assert kept == {"lm_head"}
    assert type(theirs.lm_head) is nn.Linear
    assert torch.equal(own.lm_head.weight, theirs.lm_head.weight)


def is_quantised(layer: Any) -> bool:
    return isinstance(layer, QuantisedLinear)


@pytest.mark.parametrize("dtype", KINDS)
def test_bits_do_not_depend_on_threads(dtype: str) -> None:
    weight, before = weights((2048, 1100)), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = quantised(weight, dtype)
        torch.set_num_threads(2)
        two = quantised(weight, dtype)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", KINDS)
def test_a_product_is_that_of_the_plain_matrix(dtype: str, compute: torch.dtype) -> None:
    weight, bias = weights((40, 96)), torch.linspace(-1, 1, 40)
    layer = layer_of(dtype, weight)
    layer.bias = nn.Parameter(bias.to(compute), requires_grad=False)
    plain = layer.matrix(compute)
    x = torch.randn(2, 5, 96, generator=torch.Generator().manual_seed(1)).to(compute)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = layer(one)
    expected = nn.functional.linear(other, plain, layer.bias)
    assert y.dtype == compute
    assert torch.equal(y, expected)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    expected.backward(upstream)
    assert one.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("dtype", KINDS)
def test_errors_are_of_the_size_that_the_papers_tell(dtype: str) -> None:
    """Normal weights: nf4 is off by 9 %, int8 by 1 % of a row's largest over sqrt(12)."""
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(2))
    layer = layer_of(dtype, weight)
    error = float((layer.matrix(torch.float32) - weight).norm() / weight.norm())
    assert error == pytest.approx(0.092 if dtype == "nf4" else 0.0065, rel=0.15)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_stack_is_its_clients(family: str, dtype: str) -> None:
    model = quantised_peft(family, dtype)
    assert refuses_stacking(model) == ""
    starts, batches, carried = case(model)
    expected = one_by_one(model, starts, batches, SETTINGS, carried)
    found = train_stacked(model, starts, batches, SETTINGS, carried)
    assert_same(found, expected, starts, SETTINGS.learning_rate)


@pytest.mark.parametrize("dtype", KINDS)
def test_a_stack_in_bf16_agrees_as_far_as_bf16_goes(dtype: str) -> None:
    model = quantised_peft("llama", dtype, "bf16")
    starts, batches, carried = case(model)
    settings = TrainingSettings("sgd", learning_rate=0.1)
    expected = one_by_one(model, starts, batches, settings, carried)
    found = train_stacked(model, starts, batches, settings, carried)
    for one, other in zip(found, expected, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-2)
        for name, value in other.state.items():
            torch.testing.assert_close(one.state[name], value, rtol=0, atol=5e-3)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_training_is_that_on_the_dequantised_base(family: str, dtype: str) -> None:
    model, plain = quantised_peft(family, dtype), quantised_peft(family, dtype)
    dequantise(plain)
    assert not any(map(is_quantised, plain.modules()))
    starts, batches, _ = case(model, clients=1)
    found = train_locally(model, starts[0], batches[0], SETTINGS, (0, 0, 0))
    expected = train_locally(plain, starts[0], batches[0], SETTINGS, (0, 0, 0))
    assert found.losses == pytest.approx(expected.losses, rel=1e-6)
    assert_same_sgd_step(found.state, expected.state, starts[0], SETTINGS.learning_rate)
    again = train_locally(model, starts[0], batches[0], SETTINGS, (0, 0, 0))
    assert all(torch.equal(again.state[name], value) for name, value in found.state.items())


@pytest.mark.parametrize("dtype", KINDS)
def test_both_models_use_the_one_copy(dtype: str) -> None:
    model, other = quantised_peft("gpt2", dtype, "bf16"), quantised_peft("gpt2", dtype, "bf16")
    tokens = torch.arange(3, 12)[None]
    expected = model(input_ids=tokens).logits
    shared = share_weights(model)
    if shared is None:
        pytest.skip("Linux only")
    map_weights(other, shared.path)
    for one in (model, other):
        for parameter in one.parameters():
            # Packed numbers, their scales, and the one table of scales.
            assert is_shared(parameter) != parameter.requires_grad
        assert torch.equal(one(input_ids=tokens).logits, expected)
    names = {name.rpartition(".")[2] for name, p in model.named_parameters() if is_shared(p)}
    own = {"scales", "scale_of_scales", "mean_scale", "table"} if dtype == "nf4" else {"scales"}
    assert names == {"weight", "bias"} | own
    with pytest.raises(ValueError, match="another model"):
        map_weights(quantised_peft("gpt2", dtype, "bf16", seed=1), shared.path)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_a_merged_model_is_plain(family: str, dtype: str, tmp_path: Path) -> None:
    model = quantised_peft(family, dtype)
    state = {k: v + 0.05 for k, v in initial_state(model, 3).items()}
    load_state(model, state)
    tokens = torch.arange(3, 12)[None]
    expected = model(input_ids=tokens).logits
    merged(model).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not hasattr(loaded.config, "quantization_config")
    assert type(loaded) is type(small_model(family))
    assert not any(map(is_quantised, loaded.modules()))
    torch.testing.assert_close(loaded(input_ids=tokens).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("labels_at", ["server", "client"])
@pytest.mark.parametrize("dtype", KINDS)
def test_a_split_quantised_model_is_the_whole_one(dtype: str, labels_at: str) -> None:
    model = quantised_peft("llama", dtype, num_hidden_layers=3)
    starts, batches, _ = case(model, clients=1)
    training = TrainingSettings("sgd", learning_rate=1.0, max_grad_norm=0.0)
    whole = train_locally(model, starts[0], batches[0], training, (0, 0, 0))
    halves = split_round(
        SplitModel(model),
        starts[0],
        [SplitClient(0, 1, batches[0])],
        training,
        CutCodec(vocabulary=96),
        SplitSettings(labels_at=labels_at),
        seed=0,
        round_index=0,
    )
    state = {**halves.server, **halves.reports[0].state}
    assert_same_sgd_step(state, whole.state, starts[0], 1.0)


@pytest.mark.parametrize("dtype", KINDS)
def test_fewer_ranks_on_the_same_base(dtype: str) -> None:
    model = quantised_peft("llama", dtype)
    twin = low_rank_model(model, 1)
    frozen = {p.data_ptr() for p in model.parameters() if not p.requires_grad}
    assert {p.data_ptr() for p in twin.parameters() if not p.requires_grad} == frozen
    assert all(min(value.shape) == 1 for value in read_state(twin).values())
    assert torch.isfinite(twin(input_ids=torch.arange(3, 9)[None]).logits).all()


def test_without_bitsandbytes_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "find_spec", lambda name: None if name == "bitsandbytes" else find_spec(name)
    )
    with pytest.raises(InputError, match=r"dtype is nf4.*pip install 'airtune\[quant\]'"):
        load_base("builtin", "nf4")
    load_base("builtin", "bf16")


def test_what_is_loaded() -> None:
    base = load_base("builtin", "int8")
    kinds = {p.dtype for p in base.model.parameters()}
    assert kinds == {torch.int8, torch.float32, torch.bfloat16}
    floats = {n for n, p in base.model.named_parameters() if p.dtype == torch.float32}
    assert {name.rpartition(".")[2] for name in floats} == {"scales"}
    assert base.model.lm_head.weight.dtype == torch.bfloat16
    wide = load_base("builtin", "nf4", compute_dtype="fp32").model
    assert wide.lm_head.weight.dtype == wide.model.norm.weight.dtype == torch.float32
    with pytest.raises(InputError, match=r"compute_dtype is fp16.*left out unless dtype is nf4"):
        load_base("builtin", "fp32", compute_dtype="fp16")


def test_peft_is_imported_without_bitsandbytes() -> None:
    """It costs seconds and, where `kernels` is installed, asks the hub for a kernel."""
    code = (
        "import sys, importlib.util; from airtune.tuning.plain_peft import peft; "
        "assert 'bitsandbytes' not in sys.modules, 'imported'; "
        "assert importlib.util.find_spec('bitsandbytes'); "
        "from peft.import_utils import is_bnb_available; assert is_bnb_available()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
