"""The shipped model is what its recipe says, loads like any other, and is a base worth tuning."""

import json
import math
from collections.abc import Iterator
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

import builtin_entropy
import pretrain_builtin as script
from airtune.data.batches import make_batch, rows_alike
from airtune.data.builtin_tasks import builtin_examples
from airtune.data.builtin_words import Draw
from airtune.data.encoding import Encoded, encode
from airtune.seeds import generator

FOLDER = Path(str(files("airtune") / "builtin_model"))
RECIPE = json.loads((FOLDER / "recipe.json").read_text())


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


def test_size_shape_and_precision(model: Any, tokenizer: Any) -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6e6
    assert 1e6 <= model.num_parameters() <= 4e6
    assert model.num_parameters() == RECIPE["parameters"]
    # Stored in half precision, but the config asks for single: a plain load trains in fp32.
    assert model.dtype == torch.float32
    assert model.config.tie_word_embeddings
    assert model.config.max_position_embeddings >= 512
    assert len(tokenizer) == model.config.vocab_size
    for part in ("pad", "bos", "eos"):
        assert getattr(tokenizer, f"{part}_token_id") == getattr(model.config, f"{part}_token_id")


@given(st.text(max_size=60))
def test_the_tokenizer_keeps_any_text(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER) if not _KEPT else _KEPT[0]
    _KEPT[:] = [tokenizer]
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == text


_KEPT: list[Any] = []


def test_digits_are_split_singly(tokenizer: Any) -> None:
    assert tokenizer.tokenize("127+35") == ["1", "2", "7", "+", "3", "5"]


def _loss(model: Any, encoded: Encoded, pad_token: int) -> float:
    """The mean over label tokens, in nats."""
    total = tokens = 0.0
    for rows in rows_alike(encoded.length, 2048):
        batch = make_batch(encoded, rows, pad_token)
        ids, mask = torch.from_numpy(batch.token_ids), torch.from_numpy(batch.attention_mask)
        labels = torch.where(torch.from_numpy(batch.label_mask), ids, -100)
        with torch.no_grad():
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        total += float(loss) * batch.label_tokens
        tokens += batch.label_tokens
    return total / tokens


@pytest.mark.parametrize("task", ["slots", "arithmetic"])
def test_the_task_form_is_unknown_to_the_base(model: Any, tokenizer: Any, task: str) -> None:
    """The recorded zero-shot loss holds: the base knows the words, and not the task."""
    encoded = encode(tokenizer, builtin_examples(task, "test", 64, 0), 256)
    loss = _loss(model, encoded, tokenizer.pad_token_id)
    assert loss == pytest.approx(RECIPE["zero_shot_loss"][task], rel=0.1)
    assert loss > 1.5 * RECIPE["tuned_loss"][task]


@pytest.mark.slow
def test_the_hold_out_loss_is_the_recorded_one(model: Any, tokenizer: Any) -> None:
    """On the hold-out, generated anew: text, tokenizer and weights belong together."""
    batches = script.packed(tokenizer, script.corpus(RECIPE["seed"], "hold-out"))
    loss = script.hold_out_loss(model, list(islice(batches, script.HOLD_OUT_BATCHES)))
    assert loss == pytest.approx(RECIPE["hold_out_loss"], abs=1e-3)


def test_the_recorded_loss_is_the_end_of_the_curve() -> None:
    # The recorded loss is that of the weights as stored, the curve's that of those in training.
    assert RECIPE["hold_out_loss"] == pytest.approx(RECIPE["curve"][-1]["hold_out_loss"], abs=2e-3)


@pytest.mark.slow
def test_the_tokenizer_comes_from_the_script(tokenizer: Any) -> None:
    assert script.train_tokenizer(RECIPE["seed"]).get_vocab() == tokenizer.get_vocab()


@pytest.mark.slow
def test_pretraining_is_repeatable(tokenizer: Any) -> None:
    weights = []
    for _ in range(2):
        data = script.packed(tokenizer, script.corpus(0, "train"))
        model = script.build_model(tokenizer, 0)
        script.train(model, data, [next(data)], 3, [])
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.slow
def test_a_run_goes_on_from_its_checkpoint(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "CHECKPOINT_STEPS", 2)

    def trained(steps: int, checkpoint: Path | None) -> torch.Tensor:
        data = script.packed(tokenizer, script.corpus(0, "train"))
        model = script.build_model(tokenizer, 0)
        script.train(model, data, [torch.ones(1, 8, dtype=torch.long)], steps, [], checkpoint)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    whole = trained(5, None)
    trained(4, tmp_path / "kept.pt")
    assert torch.equal(whole, trained(5, tmp_path / "kept.pt"))


@pytest.mark.slow
def test_a_run_goes_on_from_an_earlier_one(tokenizer: Any) -> None:
    """Its steps and curve go on, and the batches that the earlier run saw are passed over."""
    seen: list[torch.Tensor] = []

    def batches() -> Iterator[torch.Tensor]:
        for batch in script.packed(tokenizer, script.corpus(0, "train")):
            seen.append(batch)
            yield batch

    model = script.build_model(tokenizer, 0)
    earlier = [{"step": 3, "hold_out_loss": 7.0}]
    curve = script.train(model, batches(), [torch.ones(1, 8, dtype=torch.long)], 2, earlier)
    assert [point["step"] for point in curve] == [3, 5]
    assert len(seen) == 5


class TestEntropy:
    """Two texts in three ways: what nobody sees costs nothing, equal outcomes are joined."""

    @staticmethod
    def _text(draw: Draw) -> str:
        draw.pick("xyz")
        word = draw.pick(("a", "a", "b"))
        return word + (draw.pick("cd") if draw.chance(0.25) else "")

    def test_each_text_has_its_probability(self) -> None:
        expected = {"a": 2 / 3 * 3 / 4, "b": 1 / 3 * 3 / 4}
        expected |= {w + c: p / 2 for w, p in (("a", 1 / 6), ("b", 1 / 12)) for c in "cd"}
        stream, found = generator(0, "entropy of a toy"), {}
        for _ in range(60):
            recorded = builtin_entropy.RecordedDraw([], stream)
            text = self._text(recorded)
            found[text] = math.exp(-builtin_entropy.document_nats(self._text, recorded, text))
        assert found == pytest.approx(expected)

    @pytest.mark.slow
    def test_the_model_is_near_the_entropy_of_its_text(self) -> None:
        """Within a tenth of what no model could go below."""
        result = builtin_entropy.measure(FOLDER, 150)
        assert 0.95 < result["ratio"] < 1.10
