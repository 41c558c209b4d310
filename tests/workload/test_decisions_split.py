"""Split models: halves add up, the head counts on the server's side, candidates keep their keys."""

import pytest

from airtune.errors import InputError
from airtune.workload.adapter_shape import AdapterShape, adapter_parameters
from airtune.workload.architecture import load_architecture
from airtune.workload.decisions import split_candidates
from airtune.workload.payload import flat_update_bits
from airtune.workload.step import Step
from airtune.workload.transformer import activation_bits, split_workload, workload
from tests.workload.small_models import CONFIGS, architecture

STEP = Step(batch_size=2, tokens=20)
ADAPTER = AdapterShape(4)


@pytest.mark.parametrize("split_point", [1, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_halves_add_up(name: str, split_point: int) -> None:
    model = architecture(name)
    whole = workload(model, ADAPTER, STEP)
    client, server = split_workload(model, ADAPTER, STEP, split_point)
    assert client.forward_flops + server.forward_flops == whole.forward_flops
    assert client.backward_flops + server.backward_flops == whole.backward_flops
    assert client.adapter_parameters + server.adapter_parameters == whole.adapter_parameters
    shared = model.vocab_size * model.widths.embedding if model.tied else 0
    assert client.parameters + server.parameters == whole.parameters + shared
    assert [part.name for part in (*client.parts, *server.parts)] == [
        part.name for part in whole.parts
    ]
    assert client.memory_bytes < whole.memory_bytes


@pytest.mark.parametrize("split_point", [0, 12, -1])
def test_cuts_outside_the_model_are_refused(split_point: int) -> None:
    with pytest.raises(InputError, match=r"split_point is .*from 1 to 11 \(of 12 blocks\)"):
        split_workload(load_architecture("gpt2"), ADAPTER, STEP, split_point)


def test_the_head_is_about_five_blocks_of_gpt2() -> None:
    *_, block, head = workload(load_architecture("gpt2"), ADAPTER, Step(1, 128)).parts
    assert 4 < head.forward_flops / block.forward_flops < 6


def test_activations_do_not_depend_on_the_cut() -> None:
    model = load_architecture("gpt2")
    parts = workload(model, ADAPTER, Step(1, 512)).parts
    assert {part.activation_bits for part in parts[:-1]} == {512 * 768 * 32}
    assert activation_bits(model, 512) == 512 * 768 * 32
    assert activation_bits(model, 512, "bf16") == 512 * 768 * 16


def test_candidates() -> None:
    model = load_architecture("gpt2")
    rows = split_candidates(model, tokens=512, ranks=[2, 8])
    assert [(row.split_point, row.rank) for row in rows] == [
        (point, rank) for point in range(1, 12) for rank in (2, 8)
    ]
    for row in rows:
        step, adapter = Step(1, 512), AdapterShape(row.rank)
        client, server = split_workload(model, adapter, step, row.split_point)
        assert (row.client_forward_flops, row.server_backward_flops) == (
            client.forward_flops,
            server.backward_flops,
        )
        assert row.activation_bits == row.gradient_bits == 512 * 768 * 32
        trained = adapter_parameters(model, adapter, range(row.split_point))
        assert row.adapter_bits == flat_update_bits(trained)
    assert rows[0].row(rounds=42)["rounds"] == 42


def test_candidates_of_some_cuts_and_targets() -> None:
    model = load_architecture("llama-3.2-1b")
    (row,) = split_candidates(
        model, 64, [4], split_points=[3], target_modules=("q_proj",), activation_dtype="bf16"
    )
    assert row.activation_bits == 64 * 2048 * 16
    assert row.adapter_bits == flat_update_bits(3 * 4 * (2048 + 2048))
