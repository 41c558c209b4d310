"""Experiments on models whose tokenizer has a chat template, or ids that the model lacks."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.run import continue_prompt
from airtune.experiment.shards import Shards
from airtune.experiment.world import build_world
from airtune.tuning.evaluate import generate
from tests.data.templates import CASES
from tests.data.test_encoding import byte_tokenizer
from tests.models import small_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that knows the 261 ids of the byte tokenizer, and no more."""
    folder = tmp_path_factory.mktemp("model")
    small_model("llama", vocab_size=261, max_position_embeddings=256).save_pretrained(folder)
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"what is {n}?", "completion": f"it is {n}"} for n in range(12)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _experiment(weights: Path, tokenizer: Any, rows: Path, **data: Any) -> Experiment:
    tokenizer.save_pretrained(weights)
    return Experiment(
        model=weights,
        clients={"count": 2},
        rounds=1,
        engine="sequential",
        threads=1,
        training={"local_steps": 1},
        cell={"path_loss": "log_distance"},
        data={"train": rows, "score_rows": 0, "max_tokens": 128, **data},
    )


def test_the_day_that_a_template_shows_is_kept(weights: Path, rows: Path, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(chat=CASES["dates"].template)
    world = build_world(_experiment(weights, tokenizer, rows).config)
    assert world.config.data.date == datetime.date.today().isoformat()
    chosen = _experiment(
        weights,
        tokenizer,
        rows,
        date=datetime.date(2031, 3, 5),
        system="Hi.",
        template_inputs={"place": "Oslo"},
    )
    run = chosen.run(tmp_path / "run")
    kept = read_config(tmp_path / "run" / "experiment.yaml").data
    assert (kept.date, kept.system, kept.template_inputs) == (
        "2031-03-05",
        "Hi.",
        {"place": "Oslo"},
    )
    shards = run.world.shards
    assert isinstance(shards, Shards)
    assert tokenizer.decode(shards.train.row(0)).startswith(
        "Today is 05 Mar 2031 in Oslo.\n<system"
    )
    assert any("2031-03-05" in notice for notice in run.world.tests.notices)
    (answer,) = run.generate("what is 3?", max_new_tokens=2)
    assert answer["prompt"] == "what is 3?"


def test_a_template_of_the_experiments_own_goes_out_with_the_model(
    weights: Path, rows: Path, tmp_path: Path
) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(CASES["in the form of Mistral"].template)
    world = build_world(_experiment(weights, byte_tokenizer(), rows, chat_template=path).config)
    assert world.base.tokenizer.chat_template == path.read_text()
    assert isinstance(world.shards, Shards)
    assert "[INST] what" in world.base.tokenizer.decode(world.shards.train.row(0))


@pytest.mark.parametrize("value", ["someday", "2031-02-30", 7])
def test_a_day_that_is_none(value: object) -> None:
    with pytest.raises(InputError, match=r"data\.date is .*a day such as"):
        Experiment(data={"date": value})


def test_ids_beyond_the_embedding_are_refused_before_the_folder(
    weights: Path, rows: Path, tmp_path: Path
) -> None:
    tokenizer = byte_tokenizer(chat=CASES["plain turns"].template.replace("<user>", "<|im|>"))
    tokenizer.chat_template = tokenizer.chat_template.replace("<end>", "<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    with pytest.raises(InputError, match=r"id 261 \('<\|im_end\|>'\).*below 261.*resize"):
        _experiment(weights, tokenizer, rows).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_padding_token_beyond_the_embedding_is_refused(weights: Path, rows: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    with pytest.raises(InputError, match=r"id 261 \('<pad>'\)"):
        build_world(_experiment(weights, tokenizer, rows).config)


def test_a_prompt_of_ones_own_is_checked_like_the_data(weights: Path, rows: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<new>"])
    world = build_world(_experiment(weights, tokenizer, rows).config)
    with pytest.raises(InputError, match="id 261"):
        continue_prompt(world, world.untrained, "what <new>?", 2)


def test_an_answer_ends_with_its_turn(weights: Path, rows: Path) -> None:
    tokenizer = byte_tokenizer(chat=CASES["plain turns"].template)
    world = build_world(_experiment(weights, tokenizer, rows).config)
    end, eos, a = (tokenizer.convert_tokens_to_ids(text) for text in ("<end>", "<eos>", "a"))
    asked = []

    class Fixed:
        device = "cpu"

        def generate(self, input_ids: Any, **options: Any) -> Any:
            asked.append(options["eos_token_id"])
            written = torch.tensor([[a, a, end, a], [a, eos, a, a], [a, a, a, a]])
            return torch.cat([input_ids, written], dim=1)

    prompts = [world.tests.encoded.prompt(0).tolist()] * 3
    answers = generate(Fixed(), tokenizer, prompts, 4, world.tests.stops)
    assert answers == ["aa", "a", "aaaa"]
    assert asked == [[eos, end]]


def test_half_a_character_in_a_prompt(weights: Path, rows: Path, tmp_path: Path) -> None:
    run = _experiment(weights, byte_tokenizer(), rows).run(tmp_path / "run")
    with pytest.raises(InputError, match=r"--prompt is a text with '\\ud83d'"):
        run.generate("a\ud83d")
