"""Random dropping at the cut: unbiased, of a predicted length, and the same mask at both ends."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from airtune.errors import InputError
from airtune.seeds import generator
from airtune.tuning.split.client import SplitClient
from airtune.tuning.split.model import NO_LABEL, Activations
from airtune.update.cut import CutCodec, CutShape, kept_numbers
from tests.tuning.test_split import adapted, batch_of, moves, run, start_of
from tests.update.test_cut import draws

HIDDEN, ROWS, TOKENS = 24, 2, 5


def message(seed: int = 0) -> Activations:
    source = torch.Generator().manual_seed(seed)
    real = torch.ones(ROWS, TOKENS, dtype=torch.bool)
    real[1, 3:] = False
    labels = torch.full((ROWS, TOKENS), NO_LABEL)
    labels[:, 2] = 7
    return Activations(torch.randn(ROWS, TOKENS, HIDDEN, generator=source), real, labels, ROWS)


def bound(codec: CutCodec, step: int) -> CutCodec:
    return codec.in_step(partial(generator, 3, "mask", step))


def test_the_mean_over_masks_is_the_message_and_the_variance_known() -> None:
    """E x_hat = x and E |x_hat - x|^2 = p / (1 - p) |x|^2."""
    codec, sent = CutCodec(300, dropout=0.25), message()
    real = sent.real
    total, squares, count = torch.zeros_like(sent.values), 0.0, 4000
    for step in range(count):
        once = bound(codec, step)
        found = once.decode_activations(once.encode_activations(sent, draws)).values
        total += found
        squares += float(((found - sent.values)[real] ** 2).sum())
    energy = float((sent.values[real] ** 2).sum())
    spread = float(sent.values.abs().max()) * (0.25 / 0.75 / count) ** 0.5
    assert (total / count - sent.values)[real].abs().max() < 5 * spread
    assert squares / count == pytest.approx(energy / 3, rel=0.02)


def test_the_gradient_comes_back_on_the_same_numbers_and_is_exact_in_the_mean() -> None:
    """A linear server, loss c . x_hat: its gradient at what was received is c; over masks the
    client's is c, and in each step it is zero where nothing was sent."""
    codec, sent = CutCodec(300, dropout=0.5), message()
    gradient = torch.randn(sent.values.shape, generator=torch.Generator().manual_seed(9))
    total, count = torch.zeros_like(gradient), 3000
    for step in range(count):
        once = bound(codec, step)
        arrived = once.decode_activations(once.encode_activations(sent, draws)).values
        back = once.decode_gradient(once.encode_gradient(gradient, sent.real, draws), sent.real)
        assert ((back == 0) == (arrived == 0)).all()
        kept = back != 0
        assert torch.allclose(back[kept], 2 * gradient[kept])
        total += back
    spread = float(gradient.abs().max()) * (1.0 / count) ** 0.5
    assert (total / count - gradient)[sent.real].abs().max() < 5 * spread


@pytest.mark.parametrize("number_format", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("dropout", [0.01, 0.3, 0.99])
def test_lengths_are_predicted(number_format: str, dropout: float) -> None:
    codec, sent = CutCodec(300).of_client(dropout, number_format), message()
    once = bound(codec, 1)
    shape = CutShape(ROWS, TOKENS, 8, 2)
    assert 8 * len(once.encode_activations(sent, draws)) == codec.activation_bits(shape, HIDDEN)
    back = once.encode_gradient(sent.values, sent.real, draws)
    assert 8 * len(back) == codec.gradient_bits(shape, HIDDEN)
    kept = kept_numbers(HIDDEN, dropout)
    assert kept == max(1, int(np.ceil((1 - dropout) * HIDDEN - 1e-9)))
    found = once.decode_activations(once.encode_activations(sent, draws)).values
    assert int((found != 0).sum()) <= 8 * kept


def test_nothing_dropped_is_the_codec_without_to_the_byte() -> None:
    plain = CutCodec(300)
    assert plain.of_client(0.0, None) is plain
    assert bound(plain, 1) is plain
    assert CutCodec(300).of_client(0.0, "int8") == CutCodec(300, "int8", "int8")


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"cut\.dropout is 1"):
        CutCodec(300, dropout=1.0)
    with pytest.raises(ValueError, match="must be bound first"):
        CutCodec(300, dropout=0.5).encode_activations(message(), draws)
    sent, once = message(), bound(CutCodec(300, dropout=0.5), 1)
    payload = once.encode_gradient(sent.values, sent.real, draws)
    with pytest.raises(InputError, match="payload is"):
        bound(CutCodec(300, dropout=0.25), 1).decode_gradient(payload, sent.real)


def test_clients_of_a_round_have_their_own_shares_and_formats() -> None:
    model = adapted("llama")
    start = start_of(model)
    batch: Any = batch_of(1)
    plain = SplitClient(0, 1, [batch])
    thin = SplitClient(1, 1, [batch], cut_dropout=0.5, cut_format="int8")
    result = run(model, start, [plain, thin])
    whole, less = (report.cut[0] for report in result.reports)
    assert less.activations < 0.3 * whole.activations
    assert less.gradient < 0.3 * whole.gradient
    again = run(model, start, [plain, thin])
    for one, other in zip(result.reports, again.reports, strict=True):
        assert all(torch.equal(one.state[name], value) for name, value in other.state.items())
    alone = run(model, start, [SplitClient(0, 1, [batch])])
    moved = moves(alone.reports[0], start)
    assert all((moves(result.reports[1], start)[n] - v).abs().max() > 0 for n, v in moved.items())
