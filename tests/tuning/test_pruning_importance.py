"""Importance against plain loops, and what it must not depend on."""

from typing import Any

import pytest
import torch

from airtune.tuning.adapter import load_state, read_state
from airtune.tuning.pruning.importance import (
    ActivationImportance,
    Importance,
    RandomImportance,
    WeightImportance,
    fingerprint,
)
from airtune.tuning.pruning.slice import UnitLayout
from airtune.tuning.pruning.tuner import Slicer
from airtune.workload.architecture import Architecture
from tests.tuning.test_pruning_tuner import ALPHA, MODELS, adapted, make_batch, random_state

NAMES = [
    "gpt2",
    "opt",
    "llama, query heads",
    "llama, groups",
    "qwen3",
    "gemma, one KV head",
    "phi",
    "gemma2, groups",
    "gemma3",
    "phi3, query heads",
    "phi3, groups",
    "granite",
    "smollm3, groups",
]


def architecture_of(model: Any) -> Architecture:
    return Architecture.from_config(model.get_base_model().config.to_dict())


def in_force(model: Any, block: int, name: str) -> torch.Tensor:
    """W + (alpha / r) B A as (out, in), by merging, not by the code under test."""
    structure = architecture_of(model).structure
    path = f"{structure.block_path}.{block}.{name}"
    matrix = model.get_base_model().get_submodule(path)
    weight = matrix.base_layer.weight.detach().double()
    weight = weight.T if "Conv1D" in type(matrix.base_layer).__name__ else weight
    state = read_state(model)
    a, b = (state[f"base_model.model.{path}.lora_{x}.weight"].double() for x in "AB")
    total: torch.Tensor = weight + ALPHA / a.shape[0] * torch.einsum("or,ri->oi", b, a)
    return total


def heads_of_unit(model: Any) -> list[list[int]]:
    widths = architecture_of(model).widths
    share = widths.heads // widths.kv_heads
    if widths.kv_heads >= 4:
        return [list(range(g * share, (g + 1) * share)) for g in range(widths.kv_heads)]
    return [[head] for head in range(widths.heads)]


@pytest.mark.parametrize("name", NAMES)
def test_weight_norms_against_a_plain_loop(name: str) -> None:
    model = adapted(*MODELS[name])
    architecture = architecture_of(model)
    widths, roles = (
        architecture.widths,
        {x.role.value: x.name for x in architecture.structure.linears},
    )
    dim, groups = widths.head_dim, widths.heads // widths.kv_heads
    scores = WeightImportance().scores(model, architecture, read_state(model))
    weights = {role: in_force(model, 1, matrix) for role, matrix in roles.items()}
    if "fused_qkv" in weights:
        sizes = (widths.query, widths.key_value, widths.key_value)
        thirds = weights.pop("fused_qkv").split(sizes)
        weights.update(zip(("query", "key", "value"), thirds, strict=True))
    if "fused_gate_up" in weights:
        halves = weights.pop("fused_gate_up").chunk(2)
        weights.update(zip(("gate", "up"), halves, strict=True))
    for neuron in range(0, widths.neurons, 7):
        expected = sum(
            float((weights[x][neuron] ** 2).sum()) for x in ("gate", "up") if x in weights
        )
        expected += float((weights["down"][:, neuron] ** 2).sum())
        assert float(scores[1].neurons[neuron]) == pytest.approx(expected, rel=1e-12)
    for unit, heads in enumerate(heads_of_unit(model)):
        expected = 0.0
        for head in heads:
            span = slice(head * dim, (head + 1) * dim)
            expected += float((weights["query"][span] ** 2).sum())
            expected += float((weights["output"][:, span] ** 2).sum())
        if widths.kv_heads >= 4:
            span = slice(heads[0] // groups * dim, (heads[0] // groups + 1) * dim)
            expected += sum(float((weights[x][span] ** 2).sum()) for x in ("key", "value"))
        assert float(scores[1].attention.reshape(-1)[unit]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_activation_weighted_is_what_silencing_takes_away(name: str) -> None:
    """Mean squared change of the first block's matrix output when one unit's input is zeroed."""
    model = adapted(*MODELS[name])
    architecture = architecture_of(model)
    widths, roles = (
        architecture.widths,
        {x.role.value: x.name for x in architecture.structure.linears},
    )
    batches = [make_batch(1), make_batch(2, rows=2, tokens=7)]
    scores = ActivationImportance(batches).scores(model, architecture, read_state(model))
    seen: dict[str, list[torch.Tensor]] = {"output": [], "down": []}
    handles = []
    for role, inputs in seen.items():
        path = f"{architecture.structure.block_path}.0.{roles[role]}"
        matrix = model.get_base_model().get_submodule(path)
        handles.append(matrix.register_forward_pre_hook(lambda _, x, to=inputs: to.append(x[0])))
    for batch in batches:
        model(
            input_ids=torch.tensor(batch.token_ids),
            attention_mask=torch.tensor(batch.attention_mask).long(),
        )
    for handle in handles:
        handle.remove()
    layout = UnitLayout.of(widths)
    unit_width = layout.heads_per_unit * widths.head_dim
    for role, width, found in (
        ("output", unit_width, scores[0].attention.reshape(-1)),
        ("down", 1, scores[0].neurons),
    ):
        weight = in_force(model, 0, roles[role])
        for unit in range(0, len(found), max(1, len(found) // 5)):
            span = slice(unit * width, (unit + 1) * width)
            expected = 0.0
            for batch, x in zip(batches, seen[role], strict=True):
                rows = x.detach().double().reshape(*batch.attention_mask.shape, -1)
                for row, real in zip(rows, batch.attention_mask, strict=True):
                    for position in range(int(real.sum())):
                        lost = weight[:, span] @ row[position, span]
                        expected += float((lost**2).sum())
            assert float(found[unit]) == pytest.approx(expected, rel=1e-6)


def test_silent_units_go_first() -> None:
    """A unit that writes nothing is worth nothing to activations, however large it reads."""
    model = adapted(*MODELS["llama, groups"])
    state = random_state(model)
    layer = model.get_base_model().model.layers[0]
    with torch.no_grad():
        layer.mlp.up_proj.base_layer.weight[5] *= 50.0
        layer.mlp.down_proj.base_layer.weight[:, 5] = 0.0
    name = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
    state[name][:, 5] = 0.0
    slicer = Slicer(model, ActivationImportance([make_batch(1)]))
    assert 5 not in slicer.slice(state, 0.03).blocks[0].neurons
    assert 5 in Slicer(model, WeightImportance()).slice(state, 0.9).blocks[0].neurons


@pytest.mark.parametrize(
    "rule", [WeightImportance(), ActivationImportance([make_batch(1)]), RandomImportance(3)]
)
def test_scoring_leaves_no_trace_and_depends_on_the_given_adapter_only(rule: Importance) -> None:
    model = adapted(*MODELS["qwen2, groups"])
    architecture, state = architecture_of(model), random_state(model, seed=4)
    before = read_state(model)
    one = rule.scores(model, architecture, state)
    assert all(torch.equal(read_state(model)[key], value) for key, value in before.items())
    load_state(model, random_state(model, seed=5))
    two = rule.scores(model, architecture, state)
    for left, right in zip(one, two, strict=True):
        assert torch.equal(left.attention, right.attention)
        assert torch.equal(left.neurons, right.neurons)
    other = rule.scores(model, architecture, before)
    assert not torch.equal(one[0].neurons, other[0].neurons)


def test_random_importance_is_drawn_anew_for_each_adapter_and_seed() -> None:
    model = adapted(*MODELS["gpt2"])
    state = random_state(model)
    parts = [
        Slicer(model, RandomImportance(seed)).slice(random_state(model, start), 0.5)
        for seed, start in ((1, 1), (1, 2), (2, 1))
    ]
    assert len({part.blocks for part in parts}) == 3
    assert Slicer(model, RandomImportance(1)).slice(state, 0.5) == parts[0]


def test_fingerprint_sees_every_bit() -> None:
    state = {"a": torch.ones(2, 3), "b": torch.zeros(2)}
    same = {name: tensor.clone() for name, tensor in state.items()}
    assert fingerprint(state) == fingerprint(dict(reversed(same.items())))
    same["a"][1, 2] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert fingerprint(state) != fingerprint(same)
    assert fingerprint(state) != fingerprint({"a": torch.ones(3, 2), "b": torch.zeros(2)})
