"""The slice holds exactly what `workload` counts, and cuts where it says."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from airtune.errors import InputError
from airtune.tuning.pruning.slice import (
    BlockScores,
    Cut,
    KeptBlock,
    UnitLayout,
    adapter_cuts,
    choose_slice,
    gather,
    kept_coordinates,
    masks,
    matrix_cut,
    scatter,
    take,
)
from airtune.workload.adapter_shape import AdapterShape, adapter_parameters, adapter_tensors
from airtune.workload.architecture import Architecture, pruned
from tests.models import CONFIGS

UNPRUNABLE = {"olmo2", "qwen3_moe"}
SHAPES: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in CONFIGS if family not in UNPRUNABLE),
    ("llama", {"num_attention_heads": 8, "num_key_value_heads": 4}),
    ("qwen3", {"num_attention_heads": 12, "num_key_value_heads": 6}),
    ("gemma", {"num_key_value_heads": 1}),
    ("phi", {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 48}),
    ("phi3", {"num_attention_heads": 8, "num_key_value_heads": 4}),
    ("gpt2", {"n_head": 2}),
    ("opt", {"word_embed_proj_dim": 16}),
]
RATES = [0.0, 0.1, 0.24999, 0.25, 1 / 3, 0.5, 0.75, 0.99]


def architecture_of(family: str, overrides: dict[str, Any]) -> Architecture:
    names = {
        "n_embd": "hidden_size",
        "n_head": "num_attention_heads",
        "n_layer": "num_hidden_layers",
    }
    config = {**CONFIGS[family], **overrides, "model_type": family}
    renamed = {names.get(key, key): value for key, value in config.items()}
    return Architecture.from_config(renamed)


def random_scores(architecture: Architecture, seed: int) -> list[BlockScores]:
    source = torch.Generator().manual_seed(seed)
    layout = UnitLayout.of(architecture.widths)
    return [
        BlockScores(
            torch.rand(layout.pools, layout.units, generator=source),
            torch.rand(architecture.widths.neurons, generator=source),
        )
        for _ in range(architecture.block_count)
    ]


@pytest.mark.parametrize(("family", "overrides"), SHAPES)
def test_counts_are_those_of_the_workload(family: str, overrides: dict[str, Any]) -> None:
    for rate in RATES:
        assert_counts(architecture_of(family, overrides), rate)


def assert_counts(architecture: Architecture, rate: float) -> None:
    """Units, shapes and coordinates of a random slice at this rate, as the workload counts them."""
    smaller = pruned(architecture, rate)
    part = choose_slice(architecture, random_scores(architecture, 1), rate)
    for kept in part.blocks:
        assert len(kept.query_heads) == smaller.widths.heads
        assert len(kept.key_value_heads) == smaller.widths.kv_heads
        assert len(kept.neurons) == smaller.widths.neurons
        groups = architecture.widths.heads // architecture.widths.kv_heads
        owners = [head // groups for head in kept.query_heads]
        share = len(owners) // len(kept.key_value_heads)
        # Query heads stay with their own KV head, in order: attention pairs them by position.
        assert owners == [head for head in kept.key_value_heads for _ in range(share)]
    adapter = AdapterShape(rank=1)
    shapes = adapter_tensors(architecture, adapter)
    cuts = adapter_cuts(part, shapes)
    parts = gather({name: torch.zeros(shape) for name, shape in shapes.items()}, cuts)
    expected = adapter_tensors(smaller, adapter)
    assert {name: tuple(tensor.shape) for name, tensor in parts.items()} == expected
    count = adapter_parameters(smaller, adapter)
    assert kept_coordinates(architecture, shapes, rate) == count
    assert sum(int(mask.sum()) for mask in masks(shapes, cuts).values()) == count


def test_what_never_shrinks_and_what_share_can() -> None:
    """75 % of an all-linear GPT-2 adapter has a prunable axis; A of c_attn and c_fc has none."""
    architecture = architecture_of("gpt2", {"n_embd": 768, "n_head": 12})
    shapes = adapter_tensors(architecture, AdapterShape(rank=8))
    cuts = adapter_cuts(choose_slice(architecture, random_scores(architecture, 1), 0.5), shapes)
    fixed = [name for name, cut in cuts.items() if cut.rows is None and cut.columns is None]
    matrices = {name.split(".h.0.")[1] for name in fixed if ".h.0." in name}
    assert matrices == {
        "attn.c_attn.lora_A.weight",
        "mlp.c_fc.lora_A.weight",
        "attn.c_proj.lora_B.weight",
        "mlp.c_proj.lora_B.weight",
    }
    total = sum(rows * columns for rows, columns in shapes.values())
    prunable = total - sum(shapes[name][0] * shapes[name][1] for name in fixed)
    assert prunable / total == pytest.approx(0.75)
    assert kept_coordinates(architecture, shapes, 0.5) == total - prunable // 2


def test_fused_rows_by_hand() -> None:
    """Heads 1 and 3 of four, three wide: queries, keys and values each in their third."""
    widths = architecture_of("gpt2", {"n_embd": 12, "n_head": 4}).widths
    kept = KeptBlock((1, 3), (1, 3), (0,))
    fused = architecture_of("gpt2", {}).structure.linears[0]
    query = [3, 4, 5, 9, 10, 11]
    rows = matrix_cut(fused, kept, widths).rows
    assert rows is not None
    assert rows.tolist() == [*query, *(12 + x for x in query), *(24 + x for x in query)]


def test_fused_gate_and_up_by_hand() -> None:
    """Neurons 0 and 2 of 48, gates first; keys and values of grouped heads in their own places."""
    architecture = architecture_of("phi3", {"num_attention_heads": 4, "num_key_value_heads": 2})
    fused, _, gate_up, _ = architecture.structure.linears
    kept = KeptBlock((1, 2), (0, 1), (0, 2))
    rows = matrix_cut(gate_up, kept, architecture.widths).rows
    assert rows is not None
    assert rows.tolist() == [0, 2, 48, 50]
    rows = matrix_cut(fused, kept, architecture.widths).rows
    assert rows is not None
    assert rows.tolist() == [*range(8, 24), *range(32, 64)]


def test_most_important_units_stay_and_ties_go_to_the_lower_index() -> None:
    architecture = architecture_of("llama", {"num_attention_heads": 8, "num_key_value_heads": 4})
    neurons = torch.zeros(48)
    neurons[[7, 20]] = 1.0
    # Equal as fp32, unlike as fp64: such noise may differ between machines and must not count.
    scores = BlockScores(torch.tensor([[1.0, 1.0 + 1e-12, 2.0, 1.0]], dtype=torch.float64), neurons)
    part = choose_slice(architecture, [scores] * 2, 0.5)
    assert part.blocks[0].key_value_heads == (0, 2)
    assert part.blocks[0].query_heads == (0, 1, 4, 5)
    assert part.blocks[0].neurons == tuple(range(24))
    neurons[40] = 0.5
    part = choose_slice(architecture, [BlockScores(scores.attention, neurons)] * 2, 0.5)
    assert part.blocks[0].neurons == (*range(23), 40)


def test_few_groups_lose_the_same_number_of_heads_each() -> None:
    architecture = architecture_of("llama", {"num_attention_heads": 8, "num_key_value_heads": 2})
    attention = torch.tensor([[9.0, 8.0, 7.0, 6.0], [1.0, 2.0, 4.0, 3.0]])
    part = choose_slice(architecture, [BlockScores(attention, torch.ones(48))] * 2, 0.5)
    assert part.blocks[0].query_heads == (0, 1, 6, 7)
    assert part.blocks[0].key_value_heads == (0, 1)


@given(st.integers(0, 10**6), st.floats(0.0, 0.999), st.sampled_from([0, 1, 6, 8, 10]))
def test_higher_rates_keep_less_of_the_same(seed: int, rate: float, shape: int) -> None:
    architecture = architecture_of(*SHAPES[shape])
    scores = random_scores(architecture, seed)
    less = choose_slice(architecture, scores, rate).blocks
    more = choose_slice(architecture, scores, rate / 2).blocks
    for small, large in zip(less, more, strict=True):
        assert set(small.query_heads) <= set(large.query_heads)
        assert set(small.neurons) <= set(large.neurons)
        assert small.neurons


@given(st.lists(st.booleans(), min_size=4, max_size=9).filter(any), st.integers(0, 2))
def test_take_put_and_mask_agree(flags: list[bool], direction: int) -> None:
    index = torch.tensor([place for place, flag in enumerate(flags) if flag])
    cut = [Cut(rows=index), Cut(columns=index), Cut()][direction]
    shape = [(len(flags), 3), (3, len(flags)), (4, 4)][direction]
    whole = {"x": torch.arange(shape[0] * shape[1], dtype=torch.float32).reshape(shape)}
    part = take(whole["x"], cut)
    mask = masks({"x": shape}, {"x": cut})["x"]
    assert torch.equal(part.reshape(-1), whole["x"][mask])
    back = scatter(whole, {"x": cut}, {"x": -1.0 - part})["x"]
    assert torch.equal(back, torch.where(mask, -1.0 - whole["x"], whole["x"]))
    assert float(whole["x"][0, 0]) == 0.0


def test_one_piece_is_a_view() -> None:
    whole = torch.zeros(6, 4)
    assert take(whole, Cut(rows=torch.tensor([2, 3, 4]))).data_ptr() == whole[2:].data_ptr()
    assert take(whole, Cut(rows=torch.tensor([0, 2]))).data_ptr() != whole.data_ptr()


def test_refusals() -> None:
    architecture = architecture_of("llama", {})
    part = choose_slice(architecture, random_scores(architecture, 1), 0.5)
    for name in ("base_model.model.lm_head.lora_A.weight", "base_model.model.model.layers.0.x"):
        with pytest.raises(InputError, match="a LoRA factor of a linear layer of llama"):
            adapter_cuts(part, [name])
    with pytest.raises(InputError, match="at least 0 and less than 1"):
        choose_slice(architecture, random_scores(architecture, 1), 1.0)
