"""Runs on random models of the families added last: adapters that PEFT loads, slices, halves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.run import Run
from airtune.tuning.base_model import model_location
from tests.models import small_model
from tests.tuning.test_label_loss import plain_loss

FAMILIES = ["gemma2", "gemma3_text", "phi3", "granite", "smollm3", "olmo2", "qwen3_moe"]
FULL = "adapter.kind=full"
PRUNED = [family for family in FAMILIES if family not in ("olmo2", "qwen3_moe")]


def _some_slow(families: list[str]) -> list[Any]:
    """All of them, those that differ least from others as slow tests."""
    alike = ("gemma3_text", "granite", "smollm3", "phi3")
    return [
        pytest.param(family, marks=pytest.mark.slow) if family in alike else family
        for family in families
    ]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A family's model folder, with the built-in model's tokenizer and rows beside it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_location("builtin"))
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = place = tmp_path_factory.mktemp(family)
            model = small_model(family, vocab_size=len(tokenizer), max_position_embeddings=128)
            model.save_pretrained(place)
            tokenizer.save_pretrained(place)
            rows = [
                {"prompt": f"the {word} inn", "completion": f"is by the {word} river"}
                for word in ("old", "new", "red", "grey", "long", "deep", "dark", "wide")
            ]
            lines = [json.dumps(row) + "\n" for row in rows]
            (place / "rows.jsonl").write_text("".join(lines[:6] * 4))
            (place / "test.jsonl").write_text("".join(lines[6:]))
        return made[family]

    return folder


def experiment(folder: Path, *changes: str) -> Experiment:
    return Experiment.load(
        None,
        [
            f"model={folder}",
            f"data.train={folder / 'rows.jsonl'}",
            f"data.test={folder / 'test.jsonl'}",
            "data.score_rows=0",
            "data.max_tokens=64",
            "data.partition.kind=iid",
            "rounds=2",
            "clients.count=3",
            "training.local_steps=2",
            "training.batch_size=2",
            "training.learning_rate=0.02",
            "cell.path_loss=log_distance",
            "threads=1",
            "engine=sequential",
            *([] if FULL in changes else ["adapter.rank=2"]),
            *changes,
        ],
    )


def loss_of(model: Any, run: Run) -> float:
    """Through all of the model's logits."""
    with torch.no_grad():
        terms = [plain_loss(model, batch) for batch in run.world.tests.batches()]
    return float(sum(loss for loss, _ in terms)) / sum(count for _, count in terms)


def assert_peft_gives_the_reported_loss(folder: Path, run_folder: Path) -> None:
    """The saved adapter on the model as `from_pretrained` makes it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = Run.open(run_folder)
    base = AutoModelForCausalLM.from_pretrained(folder)
    tuned = PeftModel.from_pretrained(base, run.folder.adapter).eval()
    assert loss_of(tuned, run) == pytest.approx(run.summary["final_test_loss"], abs=1e-5)
    assert run.summary["final_test_loss"] < run.summary["start_test_loss"]


@pytest.mark.parametrize("engine", [pytest.param("sequential", marks=pytest.mark.slow), "batched"])
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_gives_the_reported_loss(
    family: str, engine: str, folder_of: Any, tmp_path: Path
) -> None:
    folder = folder_of(family)
    experiment(folder, f"engine={engine}").run(tmp_path / "run")
    assert_peft_gives_the_reported_loss(folder, tmp_path / "run")


@pytest.mark.parametrize("family", ["gemma2", "phi3", "qwen3_moe"])
def test_full_tuning_writes_a_model_with_the_reported_loss(
    family: str, folder_of: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    experiment(folder_of(family), FULL).run(tmp_path / "run")
    run = Run.open(tmp_path / "run")
    tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").eval()
    assert loss_of(tuned, run) == pytest.approx(run.summary["final_test_loss"], abs=1e-5)
    assert run.summary["final_test_loss"] < run.summary["start_test_loss"]


@pytest.mark.parametrize("family", _some_slow(PRUNED))
def test_pruned_clients(family: str, folder_of: Any, tmp_path: Path) -> None:
    folder = folder_of(family)
    changes = "method=jcpba", "jcpba.pruning_budget=0.5", "jcpba.solver=uniform-pruning"
    experiment(folder, *changes).run(tmp_path / "run")
    assert_peft_gives_the_reported_loss(folder, tmp_path / "run")
    clients = [
        entry for record in Run.open(tmp_path / "run").records for entry in record["clients"]
    ]
    assert all(entry["pruning_rate"] > 0.4 for entry in clients)


@pytest.mark.parametrize("family", _some_slow(FAMILIES))
def test_split_models(family: str, folder_of: Any, tmp_path: Path) -> None:
    folder = folder_of(family)
    experiment(folder, "method=sflllm").run(tmp_path / "run")
    assert_peft_gives_the_reported_loss(folder, tmp_path / "run")


@pytest.mark.parametrize("family", ["olmo2", "qwen3_moe"])
def test_what_cannot_be_pruned_is_refused_before_anything_is_written(
    family: str, folder_of: Any, tmp_path: Path
) -> None:
    sentence = f"is {family}, but it must be one of whose blocks heads and neurons can be removed"
    with pytest.raises(InputError, match=f"model {sentence}"):
        experiment(folder_of(family), "method=jcpba").run(tmp_path / "run")
    charged = "charge_as=" + {"olmo2": "olmo-2-1b", "qwen3_moe": "qwen3-30b-a3b"}[family]
    with pytest.raises(InputError, match=f"charge_as {sentence}"):
        experiment(folder_of("granite"), "method=jcpba", charged).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_targets_inside_experts_are_refused(folder_of: Any, tmp_path: Path) -> None:
    chosen = "adapter.target_modules=[gate_proj]"
    with pytest.raises(
        InputError, match=r"target_modules is gate_proj.*experts, router, embedding"
    ):
        experiment(folder_of("qwen3_moe"), chosen).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
