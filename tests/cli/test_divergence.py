"""Training that diverges: a sentence with client and round, and everything before it is kept."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from airtune.tuning.evaluate import Evaluation
from airtune.tuning.local import TrainingSettings
from tests.cli.conftest import quick
from tests.cli.test_run import fingerprint

Call = Callable[..., tuple[int, str, str]]
SGD = ("training.optimizer=sgd", "training.max_grad_norm=0")


def diverging(*changes: str) -> list[str]:
    return quick("data.score_rows=0", *changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            ("fedlora.uplink_dtype=fp16", "training.learning_rate=1e6", *SGD),
            "round 1: the update of client 0, as it arrived in its number format, is not finite: "
            "send it as bf16 or fp32",
        ),
        (("training.learning_rate=1e25",), "round 1: the test loss after it is"),
        (
            ("training.learning_rate=1e25", "training.local_steps=2"),
            "round 1: the loss of client 0 in its local step 2 is",
        ),
        pytest.param(
            ("method=jcpba", "training.learning_rate=1e30", *SGD),
            "round 1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("method=soft_tsfa", "training.learning_rate=1e30", *SGD),
            "round 1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("method=sflllm", "training.learning_rate=1e25", "training.local_steps=2"),
            "client 0",
            marks=pytest.mark.slow,
        ),
        (
            (
                "method=sflllm",
                "training.learning_rate=1e25",
                "training.local_steps=2",
                "sflllm.activation_dtype=int8",
                "sflllm.gradient_dtype=int8",
            ),
            "at the cut are not finite in local step 2",
        ),
    ],
    ids=["fp16", "test loss", "loss", "jcpba", "soft_tsfa", "sflllm", "sflllm int8"],
)
def test_divergence_in_round_1(
    airtune: Call, tmp_path: Path, changes: tuple[str, ...], sentence: str
) -> None:
    code, _, error = airtune("run", *diverging(*changes), "--out", "run", "--quiet")
    assert code == 4, error
    assert error.startswith("airtune: Training diverged in round")
    assert sentence in error
    assert error.count("\n") == 1
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()
    assert "Training diverged" in (tmp_path / "run" / "report.html").read_text()


def test_divergence_later_keeps_what_was_done(
    airtune: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round 1 is harmless, round 2 no model survives; resuming ends in the same way."""
    in_round = TrainingSettings.in_round

    def from_round_2(self: TrainingSettings, index: int) -> TrainingSettings:
        return replace(in_round(self, index), learning_rate=1e30 if index else 1e-3)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingSettings, "in_round", from_round_2)
        kept, summary = [], {}
        for command in (["run", *diverging("rounds=3"), "--out", "a run"], ["resume", "a run"]):
            code, _, error = airtune(*command, "--quiet")
            assert code == 4, error
            assert "Training diverged in round 2" in error
            assert "report and adapter up to round 1 are in 'a run'" in error
            assert "would make round 2 again and end the same way" in error
            assert "--set adapter.start='a run'/adapter" in error
            summary = json.loads((tmp_path / "a run" / "summary.json").read_text())
            assert (summary["rounds"], "round 2" in summary["diverged"]) == (1, True)
            kept.append(fingerprint(tmp_path / "a run"))
        assert kept[0] == kept[1]
    # What the sentence advises.
    fresh = diverging("rounds=1", "adapter.start=a run/adapter")
    assert airtune("run", *fresh, "--out", "next", "--quiet")[0] == 0
    fresh_start = json.loads((tmp_path / "next" / "summary.json").read_text())["start_test_loss"]
    assert fresh_start == pytest.approx(summary["final_test_loss"], rel=1e-6)


def test_a_base_model_without_a_finite_loss_is_refused(
    airtune: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "airtune.experiment.engine.evaluate", lambda model, batches: Evaluation(float("nan"), 1)
    )
    code, _, error = airtune("run", *diverging(), "--out", "run", "--quiet")
    assert (code, "whose test loss before round 1 is nan" in error) == (2, True)
    assert not (tmp_path / "run").exists()
