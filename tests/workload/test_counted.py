"""Models without a closed form: what is counted on shapes alone against what really runs."""

import json
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode

from airtune.errors import InputError
from airtune.tuning.adapter import linear_targets
from airtune.workload.adapter_shape import AdapterShape, EveryParameter, Trained, adapter_tensors
from airtune.workload.architecture import Architecture, architecture_of, load_architecture
from airtune.workload.counted import NO_LIMIT, CountedArchitecture, Counts
from airtune.workload.counting.counter import Counter
from airtune.workload.counting.module import build
from airtune.workload.counting.sample import NotCountable, Sample, Trainee
from airtune.workload.decisions import affine_flops, distinct_rates
from airtune.workload.payload import update_bits
from airtune.workload.precision import Precision
from airtune.workload.step import Step
from airtune.workload.transformer import split_workload, workload
from tests.workload.other_models import CONFIGS, config_of, random_model
from tests.workload.small_models import CONFIGS as CLOSED
from tests.workload.small_models import architecture

# A window, a fused block, experts; the others with the slow tests.
_QUICK = {"gpt_neo", "falcon", "mixtral"}
FAMILIES = [
    pytest.param(name, marks=[] if name in _QUICK else pytest.mark.slow) for name in CONFIGS
]
HELD_OUT = (Step(3, 20), Step(2, 33), Step(1, 100))
"""Not among the shapes that rules are made from or checked on; windows are of 16 tokens."""


@cache
def counted(name: str) -> CountedArchitecture:
    made = architecture_of(config_of(name).to_dict())
    assert isinstance(made, CountedArchitecture)
    return made


def targets(name: str) -> tuple[str, ...]:
    """PEFT refuses some of Mamba's matrices."""
    return ("in_proj", "x_proj") if name == "mamba" else ("all-linear",)


def shape(name: str, rank: int = 8, frozen_a: bool = False) -> AdapterShape:
    names = targets(name)
    return AdapterShape(rank, names if name == "mamba" else names[0], frozen_a=frozen_a)


def with_adapter(name: str, rank: int = 8) -> Any:
    model = deepcopy(random_model(name))
    names = targets(name) if name == "mamba" else linear_targets(model, "all-linear")
    chosen = names if isinstance(names, str) else list(names)
    return get_peft_model(model, LoraConfig(r=rank, target_modules=chosen, task_type="CAUSAL_LM"))


def measured(model: Any, step: Step) -> tuple[int, int]:
    """Forward and backward operations as torch's counter sees the real products."""
    ids = torch.randint(5, 2000, (step.batch_size, step.tokens))
    with FlopCounterMode(display=False) as counter:
        mask = torch.ones_like(ids)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        forward = counter.get_total_flops()
        logits.backward(torch.ones_like(logits))
    return forward, counter.get_total_flops() - forward


@pytest.mark.parametrize("name", FAMILIES)
def test_flops_equal_those_of_the_real_module(name: str) -> None:
    model = with_adapter(name)
    for step in HELD_OUT:
        work = workload(counted(name), shape(name), step)
        assert (work.forward_flops, work.backward_flops) == measured(model, step)


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_equal_those_of_the_real_module(name: str) -> None:
    made, model = counted(name), with_adapter(name)
    trained = {
        path.replace(".default.", "."): tuple(parameter.shape)
        for path, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert adapter_tensors(made, shape(name)) == trained
    assert made.parameters == sum(p.numel() for p in random_model(name).parameters())
    assert workload(made, shape(name), Step(1, 8)).adapter_parameters == sum(
        rows * columns for rows, columns in trained.values()
    )


@pytest.mark.parametrize("name", ["gpt_neo", "mixtral"])
def test_every_parameter(name: str) -> None:
    model = deepcopy(random_model(name)).requires_grad_(True)
    work = workload(counted(name), EveryParameter(), Step(2, 21))
    assert (work.forward_flops, work.backward_flops) == measured(model, Step(2, 21))
    assert work.adapter_parameters == work.parameters


def by_hand(step: Step, rank: int) -> tuple[int, int]:
    """Mixtral of `other_models`: q, k, v and o with adapters, two of four experts active.

    The lowest block's input needs no gradient; above it everything does.
    """
    rows, t = step.positions, step.tokens
    h, kv, mlp, experts, active, vocabulary, blocks = 48, 24, 80, 4, 2, 2048, 3
    shapes = [(h, h), (h, kv), (h, kv), (h, h)]
    frozen = sum(read * write for read, write in shapes)
    low = sum(rank * (read + write) for read, write in shapes)
    attention = 2 * step.batch_size * t * t * h  # one product
    routed = h * experts + active * 3 * h * mlp
    forward = blocks * (2 * rows * (frozen + low + routed) + 2 * attention)
    head = 2 * rows * h * vocabulary
    # Of B, of A x and of A; of x in o and, above the lowest block, in q, k and v.
    factors = sum(rank * (2 * write + read) for read, write in shapes)
    inner = sum(read * write + rank * read for read, write in shapes)
    output = h * h + rank * h
    backward = blocks * (2 * rows * (factors + routed) + 4 * attention)
    backward += 2 * rows * (output + (blocks - 1) * inner)
    return forward + head, backward + head


@pytest.mark.parametrize("rank", [1, 4])
def test_a_mixture_of_experts_by_hand(rank: int) -> None:
    for step in HELD_OUT:
        work = workload(counted("mixtral"), shape("mixtral", rank), step)
        assert (work.forward_flops, work.backward_flops) == by_hand(step, rank)


_TARGETS: dict[str, tuple[str, ...]] = {
    "gpt2": ("c_attn",),
    "opt": ("q_proj", "v_proj"),
    "qwen3_moe": ("q_proj", "v_proj"),
}


def padding_bytes(closed: Architecture, step: Step) -> int:
    """What a block keeps more in a batch with padding: the mask in fp32, and grouped keys and
    values repeated to the query heads."""
    repeated = 2 * step.positions * (closed.widths.query - closed.widths.key_value)
    return 4 * (step.batch_size * step.tokens**2 + repeated)


@pytest.mark.parametrize(
    "name",
    [
        "llama",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("gpt2", "opt-350m", "phi", "qwen3_moe")
        ),
    ],
)
def test_counting_agrees_with_closed_forms(name: str) -> None:
    """Two independent roads to one number, part by part; memory but for masks and positions."""
    closed, made = architecture(name), CountedArchitecture.from_config(CLOSED[name]().to_dict())
    some = _TARGETS.get(name.partition("-")[0], ("q_proj", "down_proj"))
    some = ("q_proj", "fc2") if name == "phi" else some
    adapters: list[Trained] = [AdapterShape(8), AdapterShape(8, frozen_a=True), EveryParameter()]
    adapters.append(AdapterShape(4, some))
    for adapter in adapters:
        for step in (Step(3, 20), Step(5, 33)):
            one, other = (workload(each, adapter, step) for each in (closed, made))
            assert [(p.forward_flops, p.backward_flops) for p in one.parts] == [
                (p.forward_flops, p.backward_flops) for p in other.parts
            ]
            assert other.parameters == one.parameters
            expected = one.memory_bytes + closed.block_count * padding_bytes(closed, step)
            assert other.memory_bytes == pytest.approx(expected, rel=0.002)
        assert adapter_tensors(closed, adapter).items() == adapter_tensors(made, adapter).items()


def kept_bytes(model: Any, ids: torch.Tensor) -> int:
    """Distinct storages that autograd keeps in a batch with padding; weights aside."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["gpt_neo", "bloom", "cohere2", "mixtral"])
def test_kept_activations(name: str, dtype: str) -> None:
    from transformers import AutoModelForCausalLM

    real = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    model = AutoModelForCausalLM.from_config(config_of(name), dtype=real).eval()
    chosen = linear_targets(model, "all-linear")
    names = chosen if isinstance(chosen, str) else list(chosen)
    lora = get_peft_model(model.requires_grad_(False), LoraConfig(r=8, target_modules=names))
    step = Step(3, 40)
    ids = torch.randint(5, 2000, (step.batch_size, step.tokens))
    work = workload(counted(name), shape(name), step, precision=Precision(dtype))
    predicted = sum(part.stored_bytes for part in work.parts)
    assert predicted == pytest.approx(kept_bytes(lora, ids), rel=0.02)


def test_rules_that_do_not_hold_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 32 tokens, padded up: each length is counted, and the answer is that count."""

    def stairs(self: Counts, rows: int, tokens: int) -> Any:
        chunks = -(-tokens // 32)
        numbers = (100 * rows * chunks,) * made.block_count
        return Sample((0, *numbers, 0), (0, *numbers, 0), (0, *numbers, 0), {})

    made = counted("gpt_neo")
    monkeypatch.setattr(Counts, "_counted", stairs)
    monkeypatch.setattr("airtune.workload.counted._counts", Counts)
    for tokens, chunks in ((8, 1), (33, 2), (128, 4)):
        work = workload(made, shape("gpt_neo"), Step(3, tokens))
        assert work.forward_flops == 300 * chunks * made.block_count


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model_type": "nonsense"}, "model_type is nonsense.*Unrecognized model identifier"),
        ({"hidden_size": 8}, "model_type is missing.*names no model_type"),
        ({"model_type": "t5"}, "model_type is t5.*Unrecognized configuration class"),
        ({**CONFIGS["olmo"], "model_type": "olmo", "hidden_size": "x"}, "hidden_size"),
        ({**CONFIGS["olmo"], "model_type": "olmo", "vision_config": {"a": 1}}, "vision_config"),
        ({**CONFIGS["olmo"], "model_type": "olmo", "architectures": ["OlmoModel"]}, "OlmoModel"),
    ],
)
def test_what_cannot_be_counted(config: Mapping[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        architecture_of(config)


def test_what_needs_the_roles_of_matrices_is_refused() -> None:
    made, adapter, step = counted("gpt_neo"), shape("gpt_neo"), Step(2, 16)
    for refused in (
        lambda: workload(made, adapter, step, 0.5),
        lambda: update_bits(made, adapter, pruning_rate=0.5),
        lambda: affine_flops(made, adapter, step),
        lambda: distinct_rates(made),
    ):
        with pytest.raises(
            InputError, match=r"of the family gpt_neo, .* where the model is pruned"
        ):
            refused()
    with pytest.raises(InputError, match=r"of the family gpt_neo, .* where the model is split"):
        split_workload(made, adapter, step, 1)
    with pytest.raises(InputError, match="tokens is 129, but it must be at most 128"):
        workload(made, adapter, Step(1, 129))
    with pytest.raises(InputError, match=r"among attn\.attention.k_proj"):
        AdapterShape(8, ("c_attn",)).ranks(made)
    with pytest.raises(InputError, match=r"adapter\.rank is 64"):
        workload(made, shape("gpt_neo", 64), step)


def test_a_config_alone_is_enough(tmp_path: Any) -> None:
    """At the size of a published model: no weights are made."""
    config = {
        "model_type": "cohere2",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 4,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "max_position_embeddings": 8192,
        "vocab_size": 256_000,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = load_architecture(tmp_path)
    block = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 4096
    assert made.parameters == 4 * block + 256_000 * 4096 + 4096
    few, many = (workload(made, AdapterShape(16), Step(1, tokens)) for tokens in (64, 8192))
    assert many.forward_flops > 128 * few.forward_flops


@pytest.mark.parametrize("uneven", [{"mlp_only_layers": [1]}, {"decoder_sparse_step": 2}])
@pytest.mark.slow
def test_blocks_with_and_without_experts(uneven: Mapping[str, Any]) -> None:
    """Qwen3-MoE has a closed form only where all blocks are alike."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {**CONFIGS["olmoe"], "head_dim": 12, "moe_intermediate_size": 40, **uneven}
    config = AutoConfig.for_model("qwen3_moe", **sizes)
    made = architecture_of(config.to_dict())
    assert isinstance(made, CountedArchitecture)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    )
    names = linear_targets(model.eval(), "all-linear")
    lora = LoraConfig(r=8, target_modules=list(names), task_type="CAUSAL_LM")
    work = workload(made, AdapterShape(8), HELD_OUT[0])
    real = measured(get_peft_model(model.requires_grad_(False), lora), HELD_OUT[0])
    assert (work.forward_flops, work.backward_flops) == real


def test_lengths() -> None:
    assert counted("gpt_neo").position_rows == counted("gpt_neo").max_tokens == 128
    assert (counted("falcon").position_rows, counted("mpt").max_tokens) == (0, 128)
    assert counted("mamba").max_tokens == NO_LIMIT


def test_questions_about_numbers_stay_errors() -> None:
    """A model that looks into its numbers while it runs cannot be counted without them."""
    config = config_of("gpt_neo").to_dict()
    counter = Counter(config, Trainee(("transformer.h.0.attn.attention.q_proj",)))
    block = counter._blocks[0]
    block.register_forward_pre_hook(lambda _, args: float(args[0].sum()) and None)
    with pytest.raises(NotCountable, match="item"):
        counter.count(1, 8)
    assert build(config).config.model_type == "gpt_neo"
