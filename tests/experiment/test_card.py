"""The model card: metadata that the hub reads, the run's own numbers, the same bytes again."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from airtune import Experiment, Run
from airtune.experiment.card import Progress, model_card
from airtune.experiment.world import World
from tests.cli.conftest import quick

ROWS = "".join(f'{{"prompt": "p{k}", "completion": "c{k}"}}\n' for k in range(70))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("cards")
    (place / "rows.jsonl").write_text(ROWS)
    settings = quick("rounds=1", "clients.count=2", f"data.train={place}/rows.jsonl")[1::2]
    return Experiment.load(None, settings).run(place / "run")


def card_with(run: Run, **changes: Any) -> str:
    """The card of the same run with other keys."""
    world: World = run.world
    other = replace(world, config=world.config.model_copy(update=changes))
    return model_card(other, Progress(run.state.start_loss, run.records))


def metadata(card: str) -> dict[str, Any]:
    found: dict[str, Any] = ModelCard(card).data.to_dict()
    return found


def test_a_run_has_a_card_with_its_own_numbers(run: Run) -> None:
    card = (run.folder.adapter / "README.md").read_text()
    assert metadata(card) == {
        "library_name": "peft",
        "license": "unknown",
        "pipeline_tag": "text-generation",
        "tags": ["airtune", "federated-learning", "lora"],
    }
    summary = run.summary
    assert f"| test loss before | {summary['start_test_loss']:.4f} nat a token |" in card
    assert f"| test loss after | {summary['final_test_loss']:.4f} nat a token |" in card
    assert "| training data | rows.jsonl, 60 rows |" in card
    assert "| clients | 1 x galaxy-s25, 1 x raspberry-pi-5 |" in card
    assert "| rounds | 1 |" in card
    assert "arXiv 1602.05629" in card
    assert "Not stated: the terms of the base model and of the data apply." in card
    # Nothing of this machine.
    assert str(run.folder.path.parent) not in card
    assert card == card_with(run)


def test_an_export_has_the_same_card(run: Run, tmp_path: Path) -> None:
    run.export(tmp_path / "adapter")
    own = (run.folder.adapter / "README.md").read_bytes()
    assert (tmp_path / "adapter" / "README.md").read_bytes() == own


def test_the_card_loads_the_adapter(run: Run, tmp_path: Path) -> None:
    from transformers import PreTrainedModel

    from airtune.tuning.base_model import BUILTIN, model_location

    card = card_with(run, model="builtin")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = code.replace('"BASE"', repr(str(model_location(BUILTIN))))
    names: dict[str, Any] = {}
    exec(code.replace('"FOLDER"', repr(str(run.folder.adapter))), names)
    assert isinstance(names["base"], PreTrainedModel)
    assert names["model"].peft_config["default"].r == 2


def test_names_of_the_hub_are_in_the_metadata(run: Run) -> None:
    data = run.config.data.model_copy(update={"train": "openai/gsm8k:main", "test": None})
    card = card_with(run, model="meta-llama/Llama-3.2-1B", data=data)
    found = metadata(card)
    assert found["base_model"] == "meta-llama/Llama-3.2-1B"
    assert found["datasets"] == ["openai/gsm8k"]
    assert 'AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.2-1B")' in card
    assert "BASE" not in card


def test_what_airtune_brings_is_mit_and_a_merged_model_is_no_adapter(run: Run) -> None:
    data = run.config.data.model_copy(update={"train": "builtin:slots"})
    world = replace(run.world, config=run.config.model_copy(update={"data": data}))
    card = model_card(world, Progress(1.0, ()), merge=True)
    assert metadata(card)["license"] == "mit"
    assert metadata(card)["library_name"] == "transformers"
    assert "PeftModel" not in card
    assert "test loss after" not in card


def test_parts_are_named_without_their_options(run: Run) -> None:
    card = card_with(run, codec={"use": "parts:Asking", "token": "s3cret"})
    assert "| codec | parts:Asking |" in card
    assert "s3cret" not in card


def test_a_name_does_not_break_the_table(run: Run) -> None:
    data = run.config.data.model_copy(update={"train": "/a/b|c\nd.jsonl"})
    assert "| training data | b/c d.jsonl, 60 rows |" in card_with(run, data=data)
