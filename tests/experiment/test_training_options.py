"""Options of training in an experiment: charged, recorded, refused, and the default rate."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.learning_rate import DEFAULT_RATES, learning_rate, rate_source
from airtune.experiment.loading import prepared
from airtune.experiment.reading import read_config
from airtune.methods.plan import from_cell
from airtune.workload.architecture import load_architecture
from tests.cli.conftest import airtune, quick
from tests.planning.cell_cases import JCPBA, SFLLLM, changed

__all__ = ["airtune"]
Call = Callable[..., tuple[int, str, str]]


def preview(*changes: str) -> dict[str, Any]:
    return Experiment.load(None, quick(*changes)[1::2]).preview()


def test_checkpointing_costs_time_and_saves_memory() -> None:
    plain = preview("training.batch_size=4")
    again = preview("training.batch_size=4", "training.gradient_checkpointing=true")
    for before, after in zip(plain["clients"], again["clients"], strict=True):
        assert 1.2 < after["compute_s"] / before["compute_s"] < 1.6
        assert after["memory_bytes"] < before["memory_bytes"]
        assert after["uplink_bits"] == before["uplink_bits"]


def test_accumulation_saves_memory_and_no_time() -> None:
    plain = preview("training.batch_size=4")
    parts = preview("training.batch_size=4", "training.gradient_accumulation=4")
    single = preview("training.batch_size=1")
    rows = zip(plain["clients"], parts["clients"], single["clients"], strict=True)
    for whole, found, one in rows:
        assert found["compute_s"] == pytest.approx(whole["compute_s"])
        assert one["memory_bytes"] <= found["memory_bytes"] < whole["memory_bytes"]


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("sequential", marks=pytest.mark.slow),
        "batched",
        pytest.param("workers", marks=pytest.mark.slow),
    ],
)
def test_every_engine_trains_so(airtune: Call, engine: str) -> None:
    losses: list[float] = []
    for options in (
        [],
        ["training.gradient_checkpointing=true", "training.gradient_accumulation=2"],
    ):
        settings = quick("rounds=1", f"engine={engine}", "training.batch_size=3", *options)
        code, out, err = airtune("run", *settings, "--out", f"run-{len(losses)}", "--json")
        assert code == 0, err
        losses.append(json.loads(out)["final_test_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("option", ["gradient_checkpointing=true", "gradient_accumulation=2"])
def test_a_split_model_refuses_them_by_name(option: str) -> None:
    settings = ["method=sflllm", f"training.{option}"]
    with pytest.raises(InputError, match=rf"training\.{option.partition('=')[0]} is .*is split"):
        prepared(read_config(None, settings))


def test_plans_from_a_cell_count_them() -> None:
    plain, again = (
        from_cell(JCPBA).numbers,
        from_cell(changed(JCPBA, "training.gradient_checkpointing", True)).numbers,
    )
    for before, after in zip(plain["clients"], again["clients"], strict=True):
        assert after["compute_delay_s"]["prunable"] > 1.2 * before["compute_delay_s"]["prunable"]
    with pytest.raises(InputError, match=r"training\.gradient_accumulation is 2, .* split"):
        from_cell(changed(SFLLLM, "training.gradient_accumulation", 2))


def test_more_micro_batches_than_rows_are_refused() -> None:
    with pytest.raises(InputError, match=r"training\.gradient_accumulation is 3.*batch_size, 2"):
        read_config(None, ["training.gradient_accumulation=3", "training.batch_size=2"])
    for setting in ("gradient_accumulation=0", "weight_decay=-1", "gradient_checkpointing=2"):
        with pytest.raises(InputError, match=rf"training\.{setting.partition('=')[0]}"):
            read_config(None, [f"training.{setting}"])


SIZES = [
    ("builtin", 1_369_728, 0.0125, 0.0125),
    ("gpt2", 124e6, 5e-4, 5e-5),
    ("gpt2-medium", 355e6, 2e-4, 2e-5),
    ("llama-7b", 7e9, 2e-4, 2e-5),
    ("llama-13b", 13e9, 2e-4, 1e-5),
    ("llama-70b", 70e9, 1e-4, 1e-5),
]


@pytest.mark.parametrize(("name", "parameters", "lora", "full"), SIZES)
def test_the_table_of_default_rates(name: str, parameters: float, lora: float, full: float) -> None:
    model: Any = SimpleNamespace(parameters=parameters)
    assert learning_rate(read_config(None, []), model) == lora
    whole = read_config(None, ["adapter.kind=full", "method=fedlora"])
    assert learning_rate(whole, model) == full
    given = read_config(None, ["training.learning_rate=0.5"])
    assert learning_rate(given, model) == 0.5
    assert rate_source(given, model) is None
    assert "default" in str(rate_source(whole, model)), name


def test_sgd_has_a_default_for_the_smallest_models_alone() -> None:
    config = read_config(None, ["training.optimizer=sgd"])
    small: Any = SimpleNamespace(parameters=DEFAULT_RATES[0].most_parameters)
    assert learning_rate(config, small) == 0.0125
    with pytest.raises(InputError, match=r"training\.learning_rate is None, .* sgd"):
        learning_rate(config, load_architecture("gpt2"))


@pytest.mark.slow
def test_a_run_records_the_number(airtune: Call, tmp_path: Path) -> None:
    code, out, err = airtune("run", *quick(), "--dry-run")
    assert code == 0, err
    assert "0.0125: default up to 2 M parameters (the built-in model, measured)" in out
    assert airtune("run", *quick("rounds=1"), "--out", "run", "--quiet")[0] == 0
    text = (tmp_path / "run" / "experiment.yaml").read_text()
    assert "learning_rate: 0.0125" in text
    assert airtune("resume", "run", "--rounds", "+1", "--quiet")[0] == 0
    out = airtune("run", *quick("training.learning_rate=0.003"), "--dry-run")[1]
    assert "learning rate" in out
    assert "default up to" not in out
