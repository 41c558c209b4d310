"""Gradients aggregated over clients: exact in its limits, and by hand on a pair of rows."""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from airtune.data.batches import Batch
from airtune.errors import InputError
from airtune.tuning.local import TrainingSettings
from airtune.tuning.split.aggregation import joint_step
from airtune.tuning.split.client import SplitClient
from airtune.tuning.split.halves import ServerHalf
from airtune.tuning.split.model import NO_LABEL, Activations, SplitModel, batch_labels
from airtune.tuning.split.pairing import RowShapes, paired
from airtune.tuning.split.round import SplitSettings
from tests.tuning.test_split import (
    GRADIENT,
    adapted,
    assert_close,
    batch_of,
    run,
    start_of,
)


def own(clients: Sequence[Batch], ratio: float, training: Any = GRADIENT, **more: Any) -> Any:
    model = adapted("llama")
    parties = [SplitClient(n, 1, [batch]) for n, batch in enumerate(clients)]
    return run(model, start_of(model), parties, training, aggregation_ratio=ratio, **more)


def states(result: Any) -> dict[str, Tensor]:
    """Every tensor that was trained, by party."""
    found = {f"server {name}": value for name, value in result.server.items()}
    for report in result.reports:
        found |= {f"{report.client} {name}": value for name, value in report.state.items()}
    return found


def hidden_of(model: SplitModel) -> int:
    config: Any = model.causal.config
    return int(config.hidden_size)


def test_nothing_aggregated_is_parallel_split_learning_to_the_bit() -> None:
    batches = [batch_of(1, rows=3), batch_of(2, rows=3)]
    training = TrainingSettings(learning_rate=1e-2)
    plain, zero = own(batches, 0.0, training), own(batches, 0.0, training, compares=True)
    for name, value in states(plain).items():
        assert torch.equal(value, states(zero)[name]), name
    assert plain.reports[0].cut == zero.reports[0].cut
    assert zero.measured == {"backward_rows": 6, "cosine": 1.0}


@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_one_client_is_exact_at_any_ratio(ratio: float) -> None:
    batches = [batch_of(1, rows=3)]
    for name, value in states(own(batches, 0.0)).items():
        assert torch.equal(value, states(own(batches, ratio))[name]), name


@pytest.mark.parametrize("ratio", [0.34, 0.5, 1.0])
def test_equal_batches_and_halves_are_exact(ratio: float) -> None:
    """K clients with one batch: the mean's path is everybody's path."""
    batches = [batch_of(1, rows=4)] * 3
    exact, aggregated = own(batches, 0.0), own(batches, ratio, compares=True)
    assert_close(states(aggregated), states(exact), 2e-5)
    assert aggregated.measured["cosine"] == pytest.approx(1.0, abs=1e-6)
    pairs = int(np.ceil(4 * ratio))
    assert aggregated.measured["backward_rows"] == pairs + 3 * (4 - pairs)
    for one, other in zip(exact.reports, aggregated.reports, strict=True):
        assert other.losses == pytest.approx(one.losses, rel=1e-5)


def test_the_more_is_aggregated_the_further_from_exact() -> None:
    """Rows that have nothing in common."""
    batches = [batch_of(seed, rows=4) for seed in (1, 2, 3)]
    cosines = [own(batches, ratio, compares=True).measured["cosine"] for ratio in (0, 0.25, 0.5, 1)]
    assert cosines[0] == 1.0
    assert all(later < earlier for earlier, later in pairwise(cosines))
    assert cosines[-1] < 0.8


def test_near_copies_stay_near_exact() -> None:
    """Activations that differ by a hundredth, with the same labels."""
    model, batch = SplitModel(adapted("llama")), batch_of(1, rows=4)
    real, labels = torch.as_tensor(batch.attention_mask), batch_labels(batch)
    count = int((labels != NO_LABEL).sum())
    torch.manual_seed(0)
    base = torch.randn(*real.shape, hidden_of(model))
    start = start_of(adapted("llama"))
    cosines = []
    for noise in (0.01, 1.0):
        server = ServerHalf(model, start, {0: 1, 1: 1}, GRADIENT, {}, seed=1, round_index=0)
        messages = {
            n: Activations(base + noise * torch.randn(base.shape), real, labels, count)
            for n in range(2)
        }
        cosines.append(joint_step(server, messages, 0, 1.0, compare=True).cosine or 0.0)
    assert cosines[0] > 0.99
    assert cosines[1] < cosines[0] - 0.01


def test_a_pair_by_hand() -> None:
    """Two clients, one row each, of different lengths: gradients at the logits of the positions
    that both predict, added up and sent back along the path of the mean activations."""
    torch.manual_seed(0)
    model = SplitModel(adapted("llama"))
    start = start_of(adapted("llama"))
    batches = [batch_of(1, rows=1, tokens=9), batch_of(2, rows=1, tokens=7)]
    messages = {}
    for n, batch in enumerate(batches):
        real = torch.as_tensor(batch.attention_mask)
        labels = batch_labels(batch)
        values = torch.randn(1, real.shape[1], hidden_of(model))
        messages[n] = Activations(values, real, labels, int((labels != NO_LABEL).sum()))
    server = ServerHalf(model, start, {0: 1, 1: 1}, GRADIENT, {}, seed=1, round_index=0)
    joint = joint_step(server, messages, 0, 1.0, compare=False)
    common = (messages[0].labels[0, :7] != NO_LABEL) & (messages[1].labels[0] != NO_LABEL)  # type: ignore[index]
    places = torch.nonzero(common).flatten() - 1
    factors = {name: value.clone().requires_grad_() for name, value in start.items()}

    def logits(values: Tensor, real: Tensor) -> Tensor:
        held = {name: factors[name] for name in model.server_names(1)}
        return model.logits(model.hidden(held, 1, values, real)[0, places])

    errors = []
    for message in messages.values():
        assert message.labels is not None
        found = logits(message.values, message.real).detach().requires_grad_()
        cross_entropy(found, message.labels[0, places + 1], reduction="sum").backward()
        assert found.grad is not None
        errors.append(found.grad)
    mean = ((messages[0].values[:, :7] + messages[1].values) / 2).requires_grad_()
    total = 2 * len(places)
    torch.autograd.backward(logits(mean, messages[1].real), (errors[0] + errors[1]) / total)
    for name in model.server_names(1):
        gradient = factors[name].grad
        assert gradient is not None
        expected = start[name] - gradient
        assert (server.half.state()[name] - expected).abs().max() <= 1e-5, name
    assert joint.shared is not None
    assert joint.shared.label_tokens == len(places) > 0
    assert mean.grad is not None
    assert (joint.shared.values - mean.grad * total / 2).abs().max() <= 1e-5
    assert joint.gradients == {0: None, 1: None}
    assert joint.backward_rows == 1


def test_rows_are_paired_by_length_where_all_predict() -> None:
    real = [[1] * 5 + [0] * 3, [1] * 8, [1] * 2 + [0] * 6]
    wanted = [[0, 0, 1, 1, 1, 0, 0, 0], [0] * 4 + [1] * 4, [1, 1] + [0] * 6]
    one = RowShapes.of(np.array(real), np.array(wanted))
    assert one.tokens == [5, 8, 2]
    assert one.labels == [0b11100, 0b11110000, 0b10]
    assert one.ranked() == [2, 0, 1]
    assert one.of_rows([0, 2]) == (5, 7, 4)
    other = RowShapes([6, 6, 7], [0b111000, 0b110000, 0b1111000])
    found = paired([one, other], 2 / 3)
    assert found is not None
    assert found.rows == [[2, 0], [0, 1]]
    assert found.tokens == [2, 5]
    assert found.common == [0, 0b10000]
    assert found.label_tokens == 1
    assert found.rest(0, 3) == [1]
    assert paired([one], 1.0) is None
    assert paired([one, other], 0.0) is None
    ten = RowShapes([3] * 10, [0b110] * 10)
    assert [len(p.tokens) if (p := paired([ten, ten], r)) else 0 for r in (0.1, 0.7, 0.71, 1)] == [
        1,
        7,
        8,
        10,
    ]


def test_pairs_without_a_common_position_teach_nothing() -> None:
    """Labels that never meet: the step leaves everything as it was."""
    one, other = batch_of(1, rows=2, tokens=11), batch_of(2, rows=2, tokens=11)
    early, late = one.label_mask.copy(), other.label_mask.copy()
    early[:, 5:], late[:, :5] = False, False
    batches = [
        dataclasses.replace(one, label_mask=early),
        dataclasses.replace(other, label_mask=late),
    ]
    model = adapted("llama")
    start = start_of(model)
    result = own(batches, 1.0)
    for name, value in result.server.items():
        assert torch.equal(value, start[name])


def test_it_needs_one_server_side_with_the_labels() -> None:
    for wrong in ({"server_side": "copies"}, {"labels_at": "client"}):
        settings: dict[str, Any] = {"aggregation_ratio": 0.5, **wrong}
        with pytest.raises(InputError, match=r"aggregation_ratio is 0\.5"):
            SplitSettings(**settings)
