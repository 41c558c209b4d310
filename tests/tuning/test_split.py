"""Split equals whole, for every family and cut; and what a round of several clients is."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from airtune.data.batches import Batch
from airtune.errors import InputError
from airtune.tuning.adapter import AdapterSettings, attach, initial_state
from airtune.tuning.base_model import BaseModel
from airtune.tuning.local import TrainingSettings, train_locally
from airtune.tuning.split.client import SplitClient
from airtune.tuning.split.model import SplitModel
from airtune.tuning.split.round import SplitRound, SplitSettings, split_round
from airtune.update.cut import CutCodec, CutShape
from airtune.update.means import FactorMean, merge_halves
from airtune.update.server import Update
from tests.models import CONFIGS, small_model
from tests.rounding import (
    UNIT,
    assert_adam_step,
    assert_same_moments,
    assert_same_sgd_step,
    by_name,
)

EXACT = CutCodec(vocabulary=96)
GRADIENT = TrainingSettings("sgd", learning_rate=1.0, max_grad_norm=0.0)
"""One step with these settings moves the adapter by minus its gradient."""


def adapted(family: str, targets: Any = "all-linear", **config: Any) -> Any:
    blocks = {"n_layer": 3} if family == "gpt2" else {"num_hidden_layers": 3}
    base = BaseModel(small_model(family, **blocks, **config), None, "random")
    return attach(base, AdapterSettings(rank=2, target_modules=targets))


def start_of(model: Any, seed: int = 5) -> dict[str, Tensor]:
    """A state whose B is not zero, so that A has gradients."""
    state = initial_state(model, seed=seed)
    source = torch.Generator().manual_seed(seed)
    return {
        name: 0.3 * torch.randn(value.shape, generator=source) if "lora_B" in name else value
        for name, value in state.items()
    }


def batch_of(
    seed: int, rows: int = 3, tokens: int = 11, *, left: bool = False, width: int = 0
) -> Batch:
    """Rows of different length, padded on the right (or left), the first at full length."""
    draws = np.random.default_rng(seed)
    width = max(width, tokens)
    ids = draws.integers(3, 96, size=(rows, width))
    real = np.zeros((rows, width), dtype=np.bool_)
    labels = np.zeros_like(real)
    for row in range(rows):
        length = tokens - 2 * row
        begin = width - length if left else 0
        real[row, begin : begin + length] = True
        labels[row, begin + 3 : begin + length] = True
    ids[~real] = 0
    return Batch(ids, real, labels)


def run(
    model: Any,
    start: Mapping[str, Tensor],
    clients: Sequence[SplitClient],
    training: TrainingSettings = GRADIENT,
    cut: CutCodec = EXACT,
    **settings: Any,
) -> SplitRound:
    return split_round(
        SplitModel(model),
        dict(start),
        clients,
        training,
        cut,
        SplitSettings(**settings),
        seed=7,
        round_index=2,
    )


def whole_state(result: SplitRound, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The one client's half and the server's half together."""
    return {**start, **result.server, **result.reports[0].state}


def assert_close(one: Mapping[str, Tensor], two: Mapping[str, Tensor], limit: float) -> None:
    assert one.keys() == two.keys()
    for name in one:
        assert (one[name] - two[name]).abs().max() <= limit, name


VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
}
ODD_SHAPES = [
    ("mistral", {"sliding_window": 4}),
    (
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 4,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
    ),
    ("gemma2", {"sliding_window": 4}),
    ("gemma3_text", {"sliding_window": 4}),
    ("smollm3", {"no_rope_layers": [0, 1, 1], "use_sliding_window": True, "sliding_window": 4}),
    ("qwen3_moe", {"output_router_logits": True}),
    ("opt", {"word_embed_proj_dim": 16, "targets": ("q_proj", "fc1")}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
]


@pytest.mark.parametrize("labels_at", ["server", "client"])
@pytest.mark.parametrize("tied", list(VARIANTS))
@pytest.mark.parametrize("family", list(CONFIGS))
def test_split_equals_whole(family: str, tied: str, labels_at: str) -> None:
    check_split_equals_whole(adapted(family, **VARIANTS[tied]), labels_at)


@pytest.mark.parametrize(("family", "config"), ODD_SHAPES)
def test_split_equals_whole_for_odd_shapes(family: str, config: dict[str, Any]) -> None:
    check_split_equals_whole(adapted(family, **config), "server")


def check_split_equals_whole(model: Any, labels_at: str) -> None:
    start = start_of(model)
    for batch in (batch_of(1, width=16), batch_of(2, left=True)):
        whole = train_locally(model, start, [batch], GRADIENT, (7, 2, 0))
        moved = max(float((whole.state[name] - start[name]).abs().max()) for name in start)
        for split_point in (1, 2):
            result = run(model, start, [SplitClient(0, split_point, [batch])], labels_at=labels_at)
            assert result.reports[0].losses == pytest.approx(whole.losses, abs=1e-5)
            assert result.reports[0].label_tokens == whole.label_tokens
            assert_close(whole_state(result, start), whole.state, 1e-5 * max(1.0, moved))


def test_every_parameter_has_a_gradient() -> None:
    """The comparison above would also hold between two runs that train nothing."""
    model = adapted("llama")
    start = start_of(model)
    result = whole_state(run(model, start, [SplitClient(0, 1, [batch_of(1)])]), start)
    for name, value in start.items():
        assert (result[name] - value).abs().max() > 1e-5, name


ADAMW = TrainingSettings(learning_rate=1e-2, max_grad_norm=0.0, keep_optimizer=True)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("labels_at", ["server", "client"])
def test_one_client_follows_centralised_training(family: str, labels_at: str) -> None:
    """Round by round of one local step each, moments carried over: AdamW on the whole model.

    Every round starts from the centralised state and moments, so that rounding does not add up.
    """
    model = adapted(family)
    central, names, losses = start_of(model), list(start_of(model)), []
    kept: dict[str, Tensor] = {}
    for batch in [batch_of(1), batch_of(2)] * 2:
        carried = {
            f"{name}/{entry}": value
            for name, entries in by_name(kept, names).items()
            for entry, value in entries.items()
        }
        result = split_round(
            SplitModel(model),
            central,
            [SplitClient(0, 1, [batch], carried=carried)],
            ADAMW,
            EXACT,
            SplitSettings("shared", labels_at),
            seed=7,
            round_index=0,
            server_carried=carried,
        )
        whole = train_locally(model, central, [batch], ADAMW, (7, 0, 0), kept)
        assert result.reports[0].mean_loss == pytest.approx(whole.mean_loss, abs=1e-5)
        moments = {**result.reports[0].carried, **result.server_carried}
        expected = {
            f"{name}/{entry}": value
            for name, entries in by_name(whole.carried, names).items()
            for entry, value in entries.items()
        }
        assert_same_moments(moments, expected)
        assert_adam_step(
            central, whole_state(result, central), by_name(moments, names), ADAMW.learning_rate
        )
        central, kept = whole.state, dict(whole.carried)
        losses.append(whole.mean_loss)
    assert losses[2] < losses[0]


@pytest.mark.parametrize("server_side", ["shared", "copies"])
def test_steps_of_a_round_follow_one_another(server_side: str) -> None:
    """Four steps are four rounds of one step each, to the bit: the same products of equal shapes;
    a copy's moments end with the round, so it takes steps of SGD."""
    model = adapted("qwen3")
    start, batches = start_of(model), [batch_of(seed) for seed in range(4)]
    training = ADAMW if server_side == "shared" else TrainingSettings("sgd", 0.1)
    whole = run(model, start, [SplitClient(0, 2, batches)], training, server_side=server_side)
    state, losses = dict(start), list[float]()
    kept, server_kept = dict[str, Tensor](), dict[str, Tensor]()
    for batch in batches:
        result = split_round(
            SplitModel(model),
            state,
            [SplitClient(0, 2, [batch], carried=kept)],
            training,
            EXACT,
            SplitSettings(server_side),
            seed=7,
            round_index=2,
            server_carried=server_kept,
        )
        state = whole_state(result, state)
        kept, server_kept = dict(result.reports[0].carried), dict(result.server_carried)
        losses += result.reports[0].losses
    assert losses == list(whole.reports[0].losses)
    assert losses[-1] != losses[0]
    expected = whole_state(whole, start)
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def union(batches: Sequence[Batch]) -> Batch:
    width = max(batch.token_ids.shape[1] for batch in batches)

    def padded(values: Any) -> Any:
        return np.pad(values, ((0, 0), (0, width - values.shape[1])))

    return Batch(
        np.concatenate([padded(batch.token_ids) for batch in batches]),
        np.concatenate([padded(batch.attention_mask) for batch in batches]),
        np.concatenate([padded(batch.label_mask) for batch in batches]),
    )


BATCHES = [
    batch_of(1),
    batch_of(2, rows=2, tokens=9),
    batch_of(3, rows=1, tokens=14),
    batch_of(4, rows=2),
]
"""Of different numbers of label tokens, so that clients count with unequal weights."""
CUTS = [(1, 1, 1), (2, 2, 2), (1, 2, 1), (1, 2, 2), (1, 2, 2, 2), (2, 1, 2, 2)]


def moves(report: Any, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value - start[name] for name, value in report.state.items()}


@pytest.mark.parametrize("labels_at", ["server", "client"])
@pytest.mark.parametrize("points", CUTS)
def test_one_shared_step_is_a_centralised_step_on_the_union(
    points: tuple[int, ...], labels_at: str
) -> None:
    """SGD, one local step, client halves averaged by label tokens; also with different cuts."""
    model = adapted("llama")
    start = start_of(model)
    clients = [SplitClient(n, point, [BATCHES[n]]) for n, point in enumerate(points)]
    result = run(model, start, clients, labels_at=labels_at)
    updates = [Update(r.client, r.label_tokens, moves(r, start)) for r in result.reports]
    assert len({update.weight for update in updates}) > 1
    merged = merge_halves(start, updates, result.server)
    whole = train_locally(model, start, [union(BATCHES[: len(points)])], GRADIENT, (7, 2, 0))
    assert_close(merged, whole.state, 2e-5)


def test_any_weights_count_once_in_a_block_between_cuts() -> None:
    """`sum_held w_n g_n + (1 - sum_held w_n) g_S`: the server's copy stands for all others, with
    the gradient of the mean over their label tokens."""
    model, points = adapted("llama"), (1, 2, 2, 1)
    start = start_of(model)
    clients = [SplitClient(n, point, [BATCHES[n]]) for n, point in enumerate(points)]
    result = run(model, start, clients)
    weights = [0.4, 0.3, 0.2, 0.1]
    updates = [Update(r.client, weights[r.client], moves(r, start)) for r in result.reports]
    merged = merge_halves(start, updates, result.server)
    alone = [train_locally(model, start, [batch], GRADIENT, (7, 2, 0)) for batch in BATCHES]
    others = train_locally(model, start, [union([BATCHES[0], BATCHES[3]])], GRADIENT, (7, 2, 0))
    for name in (name for name in start if ".layers.1." in name):
        expected = (
            0.5 * others.state[name] + 0.3 * alone[1].state[name] + 0.2 * alone[2].state[name]
        )
        assert (merged[name] - expected).abs().max() <= 2e-5, name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_server_takes_one_step_of_the_mean_not_one_a_client(optimizer: str) -> None:
    """With five identical clients it moves as far as with one, in every block."""
    model, training = adapted("llama"), TrainingSettings(optimizer, 0.05, max_grad_norm=0.0)
    start = start_of(model)
    clients = [SplitClient(n, 1, [BATCHES[0], BATCHES[1]]) for n in range(5)]
    together = run(model, start, clients, training)
    alone = run(model, start, clients[:1], training)
    moved = 0.0
    for name, value in alone.server.items():
        step = (value - start[name]).abs().max()
        moved = max(moved, float(step))
        # Adam's step is of one size whatever the gradient's, down to rounding of tiny ones.
        assert (together.server[name] - value).abs().mean() <= 1e-3 * float(step) + 1e-7, name
    assert moved > 1e-3


def test_own_halves_leave_a_block_to_the_clients_that_the_server_runs_it_for() -> None:
    """Cuts 1, 2, 2: the server's copy of block 1 takes the step of client 0 alone; the others have
    their own, which no merge reads."""
    model = adapted("llama")
    start = start_of(model)
    clients = [SplitClient(n, point, [BATCHES[n]]) for n, point in enumerate((1, 2, 2))]
    result = run(model, start, clients, keeps_own=True)
    updates = [Update(report.client, 1.0, {}) for report in result.reports]
    merged = merge_halves(start, updates, result.server)
    alone = [train_locally(model, start, [batch], GRADIENT, (7, 2, 0)) for batch in BATCHES[:3]]
    everything = train_locally(model, start, [union(BATCHES[:3])], GRADIENT, (7, 2, 0))
    for name, value in start.items():
        if ".layers.0." in name:
            assert torch.equal(merged[name], value)
        served = alone[0] if ".layers.1." in name else everything
        if ".layers.0." not in name:
            assert (merged[name] - served.state[name]).abs().max() <= 2e-5, name
    for report in result.reports:
        for name, value in report.state.items():
            own = alone[report.client].state[name]
            assert (value - own).abs().max() <= 2e-5, name


@pytest.mark.parametrize("points", [(1, 1, 1), (1, 2, 2), (1, 2, 2, 2)])
def test_one_shared_step_of_adamw_is_within_its_bound(points: tuple[int, ...]) -> None:
    """Adam's first step is `eta g / (|g| + eps)`, so where the gradients of all who train a
    coordinate share a sign and are at least g, the mean of the parties' steps and the centralised
    step differ by at most `eta eps / g`; elsewhere by at most `2 eta`."""
    model, adamw = adapted("llama"), TrainingSettings(learning_rate=1e-2, max_grad_norm=0.0)
    start, epsilon, noise = start_of(model), 1e-8, 1e-5
    clients = [SplitClient(n, point, [BATCHES[n]]) for n, point in enumerate(points)]

    def merged(result: SplitRound) -> dict[str, Tensor]:
        updates = [Update(r.client, r.label_tokens, moves(r, start)) for r in result.reports]
        return merge_halves(start, updates, result.server)

    gradients, stepped = run(model, start, clients), merged(run(model, start, clients, adamw))
    whole = train_locally(model, start, [union(BATCHES[: len(points)])], adamw, (7, 2, 0)).state
    together = apart = 0
    for name, value in start.items():
        parties = [moves(report, start).get(name) for report in gradients.reports]
        server = gradients.server[name] - value if name in gradients.server else None
        known = torch.stack([move for move in (*parties, server) if move is not None])
        least = known.abs().amin(0)
        alike = ((known > 0).all(0) | (known < 0).all(0)) & (least > noise)
        error, rounding = (stepped[name] - whole[name]).abs(), 4 * 2**-24 * value.abs().max()
        assert (error[alike] <= 1e-2 * epsilon / least[alike] + rounding + 1e-7).all(), name
        assert (error <= 2e-2 + rounding + 1e-7).all(), name
        together, apart = together + int(alike.sum()), apart + int((~alike).sum())
    assert together > 100
    assert apart > 0


def test_different_cuts_train_each_block_where_it_is() -> None:
    model = adapted("llama")
    start = start_of(model)
    clients = [SplitClient(4, 1, [batch_of(1)]), SplitClient(9, 2, [batch_of(2)])]
    result = run(model, start, clients)
    assert [report.client for report in result.reports] == [4, 9]
    held = [{name.split(".layers.")[1][0] for name in report.state} for report in result.reports]
    assert held == [{"0"}, {"0", "1"}]
    assert {name.split(".layers.")[1][0] for name in result.server} == {"1", "2"}
    alone = run(model, start, [SplitClient(9, 2, [batch_of(2)])])
    assert_close(result.reports[1].state, alone.reports[0].state, 1e-5)


def test_together_is_one_after_another() -> None:
    """The server's concatenated forward against a plain loop over clients, gradients summed."""
    model = adapted("gpt2")
    start = start_of(model)
    batches = [batch_of(1), batch_of(2, rows=1, tokens=14), batch_of(3, tokens=7)]
    clients = [SplitClient(n, 1, [batch]) for n, batch in enumerate(batches)]
    together = run(model, start, clients)
    total = sum(report.label_tokens for report in together.reports)
    expected = {name: start[name].clone() for name in together.server}
    for client, report in zip(clients, together.reports, strict=True):
        alone = run(model, start, [client])
        assert report.losses == pytest.approx(alone.reports[0].losses, abs=1e-5)
        assert_close(report.state, alone.reports[0].state, 1e-5)
        for name, value in alone.server.items():
            expected[name] += (value - start[name]) * (report.label_tokens / total)
    assert_close(together.server, expected, 1e-5)


@pytest.mark.parametrize("labels_at", ["server", "client"])
def test_copies_are_averaged(labels_at: str) -> None:
    model = adapted("llama")
    start = start_of(model)
    clients = [SplitClient(n, 1, [batch_of(n)], weight=1.0 + n) for n in range(3)]
    result = run(model, start, clients, server_side="copies", labels_at=labels_at)
    singles = [train_locally(model, start, c.batches, GRADIENT, (7, 2, c.client)) for c in clients]
    updates = [
        Update(n, 1.0 + n, {name: single.state[name] - start[name] for name in start})
        for n, single in enumerate(singles)
    ]
    everything = FactorMean().aggregate(start, updates)
    halves = [Update(r.client, 1.0 + r.client, moves(r, start)) for r in result.reports]
    assert_same_sgd_step(merge_halves(start, halves, result.server), everything, start, 1.0)
    assert_close(
        result.server,
        {n: merge_halves(start, halves, result.server)[n] for n in result.server},
        0.0,
    )
    assert result.server_carried == {}


def test_copies_take_the_steps_of_their_clients_alone() -> None:
    """Two steps of AdamW, to the bit: a copy meets no other client before the average."""
    model = adapted("llama")
    start, training = start_of(model), TrainingSettings(learning_rate=1e-2)
    clients = [SplitClient(n, 1, [batch_of(n), batch_of(10 + n)], weight=1.0 + n) for n in range(3)]
    together = run(model, start, clients, training, server_side="copies")
    alone = [run(model, start, [one], training, server_side="copies") for one in clients]
    for name, value in together.server.items():
        mean = (
            sum(
                client.weight * one.server[name].double()
                for client, one in zip(clients, alone, strict=True)
            )
            / 6.0
        )
        assert (value - mean).abs().max() <= UNIT * value.abs().max()
    for report, one in zip(together.reports, alone, strict=True):
        assert all(torch.equal(report.state[n], v) for n, v in one.reports[0].state.items())


@pytest.mark.parametrize("labels_at", ["server", "client"])
@pytest.mark.parametrize("number_format", ["fp32", "bf16", "int8"])
def test_bits_are_as_predicted_and_as_they_are(number_format: str, labels_at: str) -> None:
    model = adapted("llama")
    cut = CutCodec(96, number_format, number_format)
    batches = [[batch_of(1), batch_of(2, rows=1, tokens=5)], [batch_of(3, left=True), batch_of(4)]]
    clients = [SplitClient(n, 1, steps) for n, steps in enumerate(batches)]
    result = run(model, start_of(model), clients, cut=cut, labels_at=labels_at)
    for report, steps in zip(result.reports, batches, strict=True):
        expected = [
            cut.step_bits(CutShape.of(batch), 32, labels=labels_at == "server") for batch in steps
        ]
        assert list(report.cut) == expected


@pytest.mark.parametrize(("number_format", "limit"), [("bf16", 0.02), ("int8", 0.05)])
def test_coarse_cuts_stay_close(number_format: str, limit: float) -> None:
    model = adapted("llama")
    start = start_of(model)
    clients = [SplitClient(0, 1, [batch_of(1)])]
    exact = whole_state(run(model, start, clients), start)
    coarse = whole_state(
        run(model, start, clients, cut=CutCodec(96, number_format, number_format)), start
    )
    error = sum(float((coarse[n] - exact[n]).square().sum()) for n in start) ** 0.5
    moved = sum(float((exact[n] - start[n]).square().sum()) for n in start) ** 0.5
    assert 0 < error < limit * moved


def test_random_rounding_repeats_and_depends_on_the_round() -> None:
    model = SplitModel(adapted("llama"))
    start = start_of(adapted("llama"))
    clients = [SplitClient(0, 1, [batch_of(1)])]
    cut = CutCodec(96, "int8", "int8")

    def state(seed: int, round_index: int) -> dict[str, Tensor]:
        torch.manual_seed(round_index)
        result = split_round(
            model,
            start,
            clients,
            GRADIENT,
            cut,
            SplitSettings(),
            seed=seed,
            round_index=round_index,
        )
        return whole_state(result, start)

    first, again = state(1, 1), state(1, 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for other in (state(2, 1), state(1, 2)):
        assert any(not torch.equal(first[name], other[name]) for name in first)


def test_dropout_draws_from_its_own_stream() -> None:
    base = BaseModel(small_model("llama", num_hidden_layers=3), None, "random")
    model = attach(base, AdapterSettings(rank=2, dropout=0.3))
    start = start_of(model)
    clients = [SplitClient(0, 1, [batch_of(1), batch_of(2)])]
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = run(model, start, clients)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(77)
    two = run(model, start, clients)
    assert two.reports[0].losses == one.reports[0].losses
    other = run(model, start, [dataclasses.replace(clients[0], client=1)])
    assert other.reports[0].losses != one.reports[0].losses
    assert not any(m.training for n, m in model.named_modules() if "lora_dropout" in n)


def test_the_model_is_left_as_it_was() -> None:
    model = adapted("gpt2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(model, start_of(model), [SplitClient(0, 1, [batch_of(1)])])
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_halves_are_clipped_each_by_its_own_norm() -> None:
    model = adapted("llama")
    start = start_of(model)
    clients = [SplitClient(0, 1, [batch_of(1)])]
    clipped = dataclasses.replace(GRADIENT, max_grad_norm=0.01)
    result = run(model, start, clients, clipped)
    for half in (result.reports[0].state, result.server):
        norm = sum(float((half[name] - start[name]).square().sum()) for name in half) ** 0.5
        assert norm == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("split_point", [0, 3, -1])
def test_senseless_split_points_are_refused(split_point: int) -> None:
    model = adapted("llama")
    with pytest.raises(InputError, match=f"split_point is {split_point}, but it must be 1 to 2 of"):
        run(model, start_of(model), [SplitClient(0, split_point, [batch_of(1)])])


def test_other_refusals() -> None:
    model = adapted("llama")
    start = start_of(model)
    with pytest.raises(ValueError, match="same number of steps"):
        run(model, start, [SplitClient(0, 1, [batch_of(1)]), SplitClient(1, 1, [])])
    wrong: list[dict[str, Any]] = [{"server_side": "v3"}, {"labels_at": "nobody"}]
    for settings in wrong:
        with pytest.raises(InputError, match=r"server_side|labels_at"):
            SplitSettings(**settings)
    head = attach(
        BaseModel(small_model("llama"), None, "random"),
        AdapterSettings(rank=2, target_modules=("q_proj", "lm_head")),
    )
    with pytest.raises(InputError, match="lm_head, but it must be inside the blocks"):
        SplitModel(head)
    last = attach(
        BaseModel(small_model("llama"), None, "random"),
        AdapterSettings(rank=2, target_modules=("layers.1.self_attn.q_proj",)),
    )
    with pytest.raises(InputError, match="absent from one side of the cut"):
        run(last, start_of(last), [SplitClient(0, 1, [batch_of(1)])])
