"""Bytes of a quantised base, and what it keeps, against real storages."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("bitsandbytes", reason="needs airtune[quant]")

from airtune.errors import InputError
from airtune.tuning.adapter import linear_targets
from airtune.tuning.base_model import DTYPES
from airtune.tuning.quantised import quantise_blocks
from airtune.workload.adapter_shape import AdapterShape, EveryParameter
from airtune.workload.architecture import architecture_of, load_architecture
from airtune.workload.model_work import ModelWork
from airtune.workload.precision import Precision
from airtune.workload.quantised import matrix_bytes, table_bytes
from airtune.workload.step import Attention, Step
from airtune.workload.transformer import split_workload, workload
from tests.workload.other_models import config_of, random_model
from tests.workload.small_models import (
    CONFIGS,
    DEFAULT_EXPERTS,
    architecture,
    base_model,
    batch,
    quiet_peft,
)
from tests.workload.test_step_memory import SOME, STEP, LiveBytes, saved_bytes

KINDS = ("nf4", "int8")


def quantised(name: str, dtype: str, compute: str = "fp32", attention: str = "sdpa") -> Any:
    """A small model of one family with its blocks quantised."""
    from copy import deepcopy

    torch_name = str(DTYPES[compute]).removeprefix("torch.")
    model = deepcopy(base_model(name, attention, torch_name, DEFAULT_EXPERTS))
    quantise_blocks(model, architecture(name), dtype)
    return model


def with_adapter(model: Any, adapter: AdapterShape) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = linear_targets(model, adapter.target_modules)
    config = LoraConfig(
        r=adapter.rank,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    with quiet_peft():
        model = get_peft_model(model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model.eval()


def storage_bytes(model: Any) -> int:
    """All distinct storages of a model's parameters."""
    storages = [parameter.untyped_storage() for parameter in model.parameters()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize(("dtype", "compute"), [("nf4", "bf16"), ("int8", "fp32")])
@pytest.mark.parametrize("name", CONFIGS)
def test_bytes_of_the_base_are_exact(name: str, dtype: str, compute: str) -> None:
    precision = Precision(dtype, compute=compute)
    counted = workload(architecture(name), AdapterShape(2), STEP, precision=precision)
    predicted = counted.weight_bytes + table_bytes(dtype)
    assert predicted == storage_bytes(quantised(name, dtype, compute))


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("name", ["gpt_neox", "gpt_neo", "mixtral"])
def test_families_without_a_closed_form(name: str, dtype: str) -> None:
    """Their linear layers inside the blocks; experts that are one parameter stay in bf16."""
    from copy import deepcopy

    config = config_of(name)
    made = architecture_of(config.to_dict())
    model = deepcopy(random_model(name)).to(torch.bfloat16)
    quantise_blocks(model, made, dtype)
    counted = workload(made, AdapterShape(2), Step(1, 8), precision=Precision(dtype))
    assert counted.weight_bytes + table_bytes(dtype) == storage_bytes(model)
    plain = workload(made, AdapterShape(2), Step(1, 8), precision=Precision("bf16"))
    assert [part.stored_bytes for part in counted.parts] == [p.stored_bytes for p in plain.parts]
    assert counted.flops == plain.flops
    logits = model(input_ids=torch.arange(5, 20)[None], use_cache=False).logits
    expected = random_model(name)(input_ids=torch.arange(5, 20)[None], use_cache=False).logits
    assert float((logits.float() - expected).norm() / expected.norm()) < 0.3


def test_a_layer_of_its_own_kind_is_refused_by_name() -> None:
    from copy import deepcopy

    made = architecture_of(config_of("falcon").to_dict())
    with pytest.raises(InputError, match=r"whose transformer\.h\.0.* is FalconLinear"):
        quantise_blocks(deepcopy(random_model("falcon")), made, "nf4")


@pytest.mark.parametrize(
    ("targets", "dtype", "compute", "attention"),
    [("all-linear", "nf4", "fp32", "sdpa"), ("some", "int8", "bf16", "eager")],
)
@pytest.mark.parametrize("name", CONFIGS)
def test_kept_activations(
    name: str, targets: str, dtype: str, compute: str, attention: Attention
) -> None:
    """Those of a plain base in the computing dtype: the matrices are dequantised once more."""
    some = SOME.get(name.partition("-")[0], ("q_proj", "v_proj"))
    adapter = AdapterShape(4, "all-linear" if targets == "all-linear" else some)
    precision = Precision(dtype, attention=attention, compute=compute)
    counted = workload(architecture(name), adapter, STEP, precision=precision)
    log_probabilities = 4 * STEP.logit_rows * architecture(name).vocab_size
    predicted = sum(part.stored_bytes for part in counted.parts) + log_probabilities
    model = with_adapter(quantised(name, dtype, compute, attention), adapter)
    real = saved_bytes(model, batch(name, STEP))
    assert 0.99 * real < predicted <= real


@pytest.mark.parametrize(("dtype", "compute"), [("nf4", "bf16"), ("int8", "fp32")])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_peak(name: str, dtype: str, compute: str) -> None:
    """Two AdamW steps, everything counted that is ever alive."""
    adapter, step = AdapterShape(8), Step(batch_size=8, tokens=64)
    model, ids = with_adapter(quantised(name, dtype, compute), adapter), batch(name, step)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    with LiveBytes() as memory:
        for tensor in [*model.parameters(), *model.buffers()]:
            memory.track(tensor)
        for _ in range(2):
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    precision = Precision(dtype, compute=compute)
    counted = workload(architecture(name), adapter, step, precision=precision)
    assert counted.memory_bytes == pytest.approx(memory.peak, rel=0.05)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_products_are_those_of_a_plain_base(name: str, dtype: str) -> None:
    adapter = AdapterShape(4)
    model = with_adapter(quantised(name, dtype, attention="eager"), adapter)
    ids = batch(name, STEP)
    with FlopCounterMode(display=False) as forward:
        logits = model(input_ids=ids, use_cache=False).logits
    with FlopCounterMode(display=False) as backward:
        logits.float().logsumexp(-1).sum().backward()
    for precision in (Precision(), Precision(dtype)):
        counted = workload(architecture(name), adapter, STEP, precision=precision)
        assert counted.forward_flops == forward.get_total_flops()
        assert counted.backward_flops == backward.get_total_flops()


def test_matrices_by_hand() -> None:
    # 4096 x 14336 in nf4: 29,360,128 + 917,504 + 4 (3,584 + 1).
    assert matrix_bytes("nf4", 4096, 14336) == 29_360_128 + 917_504 + 14_340
    assert matrix_bytes("int8", 4096, 14336) == 58_720_256 + 16_384
    # Everything rounded up: 3 numbers are 2 bytes, 1 block, 1 scale of scales, and the mean.
    assert matrix_bytes("nf4", 1, 3) == 2 + 1 + 8
    # QLoRA, section 3: 0.127 bit a number for the scales.
    bits = 8 * matrix_bytes("nf4", 8192, 8192) / 8192**2
    assert bits == pytest.approx(4.127, abs=1e-3)


def test_halves_hold_what_the_whole_holds() -> None:
    """A split: blocks add up; both halves have the table of an untied model's scales."""
    model, adapter, precision = load_architecture("llama-3.1-8b"), AdapterShape(8), Precision("nf4")
    whole = workload(model, adapter, Step(1, 64), precision=precision)
    client, server = split_workload(model, adapter, Step(1, 64), 4, precision=precision)
    assert client.weight_bytes + server.weight_bytes == whole.weight_bytes
    matrix = 2 * 4096 * 14336
    assert client.working_bytes == 2 * 64 * 4096 * 2 + matrix + 1024
    assert server.working_bytes == max(12 * 64 * 128256, matrix) + 1024


def test_a_small_step_holds_its_largest_matrix() -> None:
    """With few logits the dequantised matrix is what the peak has beside the parts."""
    model = load_architecture("llama-3.1-8b")
    one = workload(model, AdapterShape(8), Step(1, 8), precision=Precision("int8", compute="fp32"))
    assert one.working_bytes == 4 * 4096 * 14336


def test_a_forward_pass_holds_the_quantised_weights() -> None:
    model = architecture("llama")
    plain = ModelWork(model, AdapterShape(4), Precision("bf16")).forward_bytes(2, 20)
    packed = ModelWork(model, AdapterShape(4), Precision("nf4")).forward_bytes(2, 20)
    weights = [
        workload(model, AdapterShape(4), STEP, precision=Precision(d)) for d in ("bf16", "nf4")
    ]
    assert plain - packed == weights[0].weight_bytes - weights[1].weight_bytes > 0


@pytest.mark.parametrize("dtype", KINDS)
def test_refusals(dtype: str) -> None:
    model, precision = architecture("llama"), Precision(dtype)
    with pytest.raises(InputError, match=f"dtype is {dtype}.*where the model is pruned"):
        workload(model, AdapterShape(4), STEP, 0.5, precision)
    needed = workload(model, AdapterShape(4), STEP, precision=precision).memory_bytes
    work = ModelWork(model, AdapterShape(4), precision)
    assert work.least_rate(STEP, needed) == 0.0
    with pytest.raises(InputError, match="where the model is pruned"):
        work.least_rate(STEP, needed - 1)
    with pytest.raises(InputError, match=f"dtype is {dtype}.*every parameter is trained"):
        workload(model, EveryParameter(), STEP, precision=precision)
    with pytest.raises(InputError, match="compute_dtype is nf4"):
        Precision(dtype, compute="nf4")
    with pytest.raises(InputError, match=r"compute_dtype is bf16.*left out unless dtype is nf4"):
        Precision("fp16", compute="bf16")
