"""Messages across the cut: what arrives, its length, and that padding never travels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from airtune.data.batches import Batch
from airtune.errors import InputError
from airtune.seeds import generator
from airtune.tuning.split.model import NO_LABEL, Activations, batch_labels
from airtune.update.cut import CutCodec, CutShape
from airtune.update.quantise import NUMBER_FORMATS

HIDDEN = 6


def draws() -> np.random.Generator:
    return generator(0, "test")


def batch_of(rows: int, width: int, seed: int = 0) -> Batch:
    """Holes anywhere in the mask, labels among the real tokens, at least one of both."""
    source = np.random.default_rng(seed)
    real = source.random((rows, width)) < 0.7
    real[0, 0] = real[0, -1] = True
    labels = real & (source.random((rows, width)) < 0.5)
    labels[0, -1] = True
    return Batch(source.integers(0, 300, (rows, width)), real, labels)


def message_of(batch: Batch, *, labels: bool = True) -> Activations:
    values = torch.randn(*batch.token_ids.shape, HIDDEN, generator=torch.Generator().manual_seed(1))
    wanted = batch_labels(batch)
    return Activations(
        values,
        torch.from_numpy(batch.attention_mask),
        wanted if labels else None,
        int((wanted != NO_LABEL).sum()),
    )


def padded(values: Tensor, real: Tensor) -> Tensor:
    return values * real[..., None]


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("number_format", NUMBER_FORMATS)
@given(st.integers(1, 4), st.integers(2, 20), st.integers(0, 5), st.integers(0, 99))
def test_lengths_are_predicted_and_everything_arrives(
    number_format: str, labels: bool, rows: int, width: int, padding: int, seed: int
) -> None:
    batch = batch_of(rows, width, seed)
    message, codec = message_of(batch, labels=labels), CutCodec(300, number_format)
    wide = Activations(
        torch.nn.functional.pad(message.values, (0, 0, 0, padding)),
        torch.nn.functional.pad(message.real, (0, padding)),
        torch.nn.functional.pad(message.labels, (0, padding), value=NO_LABEL)
        if message.labels is not None
        else None,
        message.label_tokens,
    )
    payload = codec.encode_activations(wide, draws)
    assert payload == codec.encode_activations(message, draws), "padding travelled"
    shape = CutShape.of(batch)
    assert shape == CutShape(rows, width, int(batch.attention_mask.sum()), message.label_tokens)
    assert 8 * len(payload) == codec.activation_bits(shape, HIDDEN, labels=labels)
    received = codec.decode_activations(payload)
    assert torch.equal(received.real, message.real)
    assert received.label_tokens == message.label_tokens
    if labels:
        assert received.labels is not None
        assert message.labels is not None
        assert torch.equal(received.labels, message.labels)
    else:
        assert received.labels is None
    step = {"fp32": 0.0, "fp16": 2**-10, "bf16": 2**-8, "int8": 1.01 / 127}[number_format]
    largest = message.values.abs().amax(-1, keepdim=True)
    error = (received.values - padded(message.values, message.real)).abs()
    assert (error <= step * largest).all()


@pytest.mark.parametrize("number_format", NUMBER_FORMATS)
def test_hidden_states_and_gradients(number_format: str) -> None:
    message = message_of(batch_of(3, 9))
    codec = CutCodec(300, activations=number_format, gradients=number_format)
    shape = CutShape.of(batch_of(3, 9))
    for encode, decode, bits in (
        (codec.encode_hidden, codec.decode_hidden, codec.hidden_bits),
        (codec.encode_gradient, codec.decode_gradient, codec.gradient_bits),
    ):
        payload = encode(message.values, message.real, draws)
        assert 8 * len(payload) == bits(shape, HIDDEN)
        received = decode(payload, message.real)
        torch.testing.assert_close(
            received, padded(message.values, message.real), rtol=0.01, atol=0.03
        )
        wider = torch.nn.functional.pad(message.real, (0, 4))
        assert torch.equal(decode(payload, wider)[:, :9], received)


def test_both_directions_have_formats_of_their_own() -> None:
    codec, message = CutCodec(300, "int8", "bf16"), message_of(batch_of(2, 5))
    assert (
        load(codec.encode_hidden(message.values, message.real, draws))["activations"].dtype
        == torch.int8
    )
    assert (
        load(codec.encode_gradient(message.values, message.real, draws))["gradient"].dtype
        == torch.bfloat16
    )


def test_frame_by_hand() -> None:
    """Two rows of 3 and 2 real tokens, three labels, two bytes each below 65,537 token ids."""
    batch = Batch(
        np.array([[5, 6, 7], [8, 9, 0]]),
        np.array([[1, 1, 1], [1, 1, 0]], dtype=np.bool_),
        np.array([[0, 1, 1], [0, 1, 0]], dtype=np.bool_),
    )
    message = message_of(batch)
    frame = load(CutCodec(1 << 16).encode_activations(message, draws))
    assert frame["activations"].shape == (5 * HIDDEN,)
    assert torch.equal(frame["activations"][:HIDDEN], message.values[0, 0])
    assert frame["real"].tolist() == [[0b11100000], [0b11000000]]
    assert frame["label_mask"].tolist() == [[0b01100000], [0b01000000]]
    assert frame["labels"].dtype == torch.uint16
    assert frame["labels"].tolist() == [6, 7, 9]
    large = load(CutCodec((1 << 16) + 1).encode_activations(message, draws))
    assert large["labels"].dtype == torch.int32
    quiet = load(CutCodec(300).encode_activations(message_of(batch, labels=False), draws))
    assert quiet["label_tokens"].tolist() == [3]
    assert set(quiet) == {"activations", "real", "label_tokens"}


@pytest.mark.parametrize("vocabulary", [1 << 16, 1 << 17])
def test_the_highest_token_id_survives(vocabulary: int) -> None:
    ids = np.array([[1, vocabulary - 1, 0]])
    mask = np.ones((1, 3), dtype=np.bool_)
    message = message_of(Batch(ids, mask, mask))
    codec = CutCodec(vocabulary)
    received = codec.decode_activations(codec.encode_activations(message, draws))
    assert received.labels is not None
    assert received.labels.tolist() == [[NO_LABEL, vocabulary - 1, 0]]


def test_a_first_token_is_never_predicted() -> None:
    batch = Batch(np.array([[4, 5]]), np.ones((1, 2), np.bool_), np.ones((1, 2), np.bool_))
    assert batch_labels(batch).tolist() == [[NO_LABEL, 5]]
    assert CutShape.of(batch).label_tokens == 1


def test_a_step_in_both_directions() -> None:
    shape, codec = CutShape(2, 7, 11, 5), CutCodec(300, "int8", "bf16")
    gradient = codec.gradient_bits(shape, HIDDEN)
    step = codec.step_bits(shape, HIDDEN)
    assert step.uplink == codec.activation_bits(shape, HIDDEN)
    assert step.downlink == gradient
    step = codec.step_bits(shape, HIDDEN, labels=False)
    assert step.uplink == codec.activation_bits(shape, HIDDEN, labels=False) + gradient
    assert step.downlink == codec.hidden_bits(shape, HIDDEN) + gradient


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"cut\.activations is fp8"):
        CutCodec(300, activations="fp8")
    with pytest.raises(InputError, match=r"cut\.gradients is int4"):
        CutCodec(300, gradients="int4")
    message = message_of(batch_of(2, 5))
    codec = CutCodec(300, "int8")
    payload = codec.encode_hidden(message.values, message.real, draws)
    with pytest.raises(InputError, match="payload is damaged"):
        codec.decode_hidden(payload[:-1], message.real)
    frame = load(codec.encode_activations(message, draws))
    frame["activations"] = frame["activations"][:-1].clone()
    with pytest.raises(InputError, match="real tokens"):
        codec.decode_activations(save(frame))
    message.values[0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="finite to travel as int8"):
        codec.encode_activations(message, draws)
