"""`adapter.kind: full`, end to end on the built-in model."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airtune import Experiment
from airtune.comparison.definition import read_comparison
from airtune.errors import AirtuneError, InputError
from airtune.experiment.reading import read_config
from airtune.experiment.run import Run
from airtune.experiment.world import build_world
from airtune.methods.fedlora.options import FedloraSection
from airtune.tuning.base_model import load_base
from airtune.tuning.evaluate import evaluate
from airtune.workload.payload import flat_update_bits
from tests.cli.conftest import quick

PARAMETERS = 1_369_728
"""Of the built-in model, whose LM head is tied to its token table."""
DATA_BITS = 32 * PARAMETERS


def settings(*changes: str) -> list[str]:
    return quick("adapter.kind=full", "training.learning_rate=0.003", *changes)[1::2]


def fingerprint(folder: Path) -> dict[str, str]:
    """What two runs of one seed must share, and what clients carry."""
    parts = [folder / name for name in ("rounds.jsonl", "summary.json", "report.html")]
    parts += [folder / "experiment.yaml", *(folder / "model").iterdir()]
    parts += [*(folder / "checkpoints").iterdir(), *(folder / "clients").rglob("*.safetensors")]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in parts
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One quick run that several tests look at."""
    folder = tmp_path_factory.mktemp("full") / "run"
    Experiment.load(None, settings()).run(folder)
    return folder


def test_everything_travels_and_is_charged(finished: Path) -> None:
    run = Run.open(finished)
    assert sum(p.numel() for p in load_base("builtin").model.parameters()) == PARAMETERS
    for record in run.records:
        assert record["latency_s"] == pytest.approx(record["planned_latency_s"], rel=1e-9)
        frames = [record["downlink_bits"], *(e["uplink_bits"] for e in record["clients"])]
        assert {bits - DATA_BITS for bits in frames} == {8 * 80}
        assert not any("rank" in entry for entry in record["clients"])
    assert run.summary["final_test_loss"] < run.summary["start_test_loss"]
    page = (finished / "report.html").read_text()
    assert "in 2 rounds of fedlora, every parameter trained." in page
    assert "LoRA rank" not in page
    lora = Experiment.load(None, quick()[1::2]).preview()
    assert run.summary["start_test_loss"] == Run.open(finished).evaluate()["base"]["test_loss"]
    ours = Experiment.load(None, settings()).preview()
    assert ours["adapter_parameters"] == ours["parameters"] == PARAMETERS
    assert ours["uplink_bits"] == run.records[0]["clients"][0]["uplink_bits"]
    for one, other in zip(ours["clients"], lora["clients"], strict=True):
        assert one["compute_s"] > other["compute_s"]
        # Value, gradient and two moments of every parameter, in place of the frozen value.
        assert one["memory_bytes"] - other["memory_bytes"] > 11 * PARAMETERS


def test_the_saved_model_gives_the_reported_loss(finished: Path, airtune: Any) -> None:
    from transformers import AutoModelForCausalLM

    reported = json.loads((finished / "summary.json").read_text())["final_test_loss"]
    world = build_world(read_config(finished / "experiment.yaml"))
    code, out, _ = airtune("export", finished, "exported")
    assert (code, out) == (0, "Wrote the tuned model to exported.\n")
    for folder in (finished / "model", Path("exported")):
        tuned = AutoModelForCausalLM.from_pretrained(folder).eval()
        assert evaluate(tuned, world.tests.batches()).loss == pytest.approx(reported, abs=1e-5)
    code, out, _ = airtune("eval", finished, "--json")
    assert (code, json.loads(out)["tuned"]["test_loss"]) == (0, reported)
    code, out, _ = airtune("generate", finished, "--count", 1, "--max-new-tokens", 4)
    assert (code, out.count("before  "), out.count("after  ")) == (0, 1, 1)
    # A run may start from it like from any model.
    again = Experiment.load(None, settings(f"model={finished / 'model'}", "rounds=1"))
    start = again.run(Path("again")).summary["start_test_loss"]
    assert start == pytest.approx(reported, abs=1e-6)


@pytest.mark.parametrize("existed", [False, True])
def test_an_export_that_cannot_be_written_leaves_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existed: bool
) -> None:
    run, folder = Run.open(finished), tmp_path / "exported"

    def full_disk(place: Path, **_: Any) -> None:
        place.mkdir(exist_ok=True)
        (place / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run.world.base.model, "save_pretrained", full_disk)
    if existed:
        folder.mkdir()
    with pytest.raises(AirtuneError, match="No space left"):
        run.export(folder)
    assert folder.exists() == existed
    assert not existed or not list(folder.iterdir())


@pytest.mark.slow
def test_workers_give_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    Experiment.load(None, settings("engine=workers", "workers=2")).run(tmp_path / "run")
    ours, theirs = fingerprint(tmp_path / "run"), fingerprint(finished)
    for name in ("experiment.yaml", "report.html"):
        assert ours.pop(name) != theirs.pop(name), "they say which engine ran"
    assert ours == theirs


def test_killed_and_made_longer_to_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    """`kill -9` after round 1, and a round more than asked for at first."""
    code = f"""
import os, signal
from airtune import Experiment

class Kill:
    def round_done(self, record):
        os.kill(os.getpid(), signal.SIGKILL)

Experiment.load(None, {settings()!r}).run({str(tmp_path / "killed")!r}, Kill())
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    litter = tmp_path / "killed/model/.7.partial"
    litter.mkdir(parents=True)
    (litter / "config.json").write_text("{")
    Experiment.resume(tmp_path / "killed")
    assert not litter.exists()
    assert fingerprint(tmp_path / "killed") == fingerprint(finished)
    Experiment.load(None, settings("rounds=1")).run(tmp_path / "short")
    Experiment.resume(tmp_path / "short", more_rounds=1)
    assert fingerprint(tmp_path / "short") == fingerprint(finished)


EVERYTHING = (
    "fedlora.bandwidth=equal",
    "fedlora.uplink_dtype=bf16",
    "fedlora.downlink_dtype=bf16",
    "clients.count=4",
    "cohort.size=3",
    "cohort.dropout=0.4",
    "deadline_s=2.3",
    "server.optimizer=adam",
    "server.learning_rate=0.001",
)


@pytest.mark.parametrize(
    "changes",
    [pytest.param(("method=centralised",), marks=pytest.mark.slow), EVERYTHING],
    ids=["one", "all"],
)
@pytest.mark.slow
def test_composes_with_what_knows_no_factors(changes: tuple[str, ...], tmp_path: Path) -> None:
    whole = Experiment.load(None, settings("rounds=3", *changes)).run(tmp_path / "whole")
    Experiment.load(None, settings("rounds=1", *changes)).run(tmp_path / "short")
    Experiment.resume(tmp_path / "short", more_rounds=2)
    assert fingerprint(tmp_path / "short") == fingerprint(tmp_path / "whole")
    entries = [entry for record in whole.records for entry in record["clients"]]
    outcomes = {entry["outcome"] for entry in entries}
    assert outcomes == ({"in_time", "late", "silent"} if changes is EVERYTHING else {"in_time"})
    data = DATA_BITS // 2 if changes is EVERYTHING else DATA_BITS
    frames = [record["downlink_bits"] for record in whole.records]
    frames += [entry["uplink_bits"] for entry in entries if entry["outcome"] == "in_time"]
    assert all(0 < bits - data < 1000 for bits in frames)


def test_charged_as_another_model(tmp_path: Path) -> None:
    changes = ("charge_as=gpt2", "rounds=1", "clients.devices=[macbook-pro-m3-pro]")
    run = Experiment.load(None, settings(*changes)).run(tmp_path / "run")
    assert run.records[0]["clients"][0]["uplink_bits"] == flat_update_bits(124_439_808)


def test_a_codec_that_knows_no_factors(tmp_path: Path) -> None:
    codec = "codec={use: 'airtune.update.quantise:Int8Codec'}"
    (record,) = Experiment.load(None, settings("rounds=1", codec)).run(tmp_path / "run").records
    # A byte a number, and the frame with a scale of each tensor.
    assert 0 < record["clients"][0]["uplink_bits"] - 8 * PARAMETERS < 0.05 * DATA_BITS
    assert record["latency_s"] == pytest.approx(record["planned_latency_s"], rel=1e-9)
    other = "codec={use: 'airtune.update.rank_sparse:RankSparseCodec', importance: norm}"
    with pytest.raises(InputError, match="one that does not need LoRA's factors"):
        Experiment.load(None, settings(other)).run(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_stacks_are_refused_in_words_and_never_chosen(tmp_path: Path) -> None:
    for engine in ("batched", "auto"):
        world = build_world(read_config(None, settings(f"engine={engine}", "rounds=1")))
        assert world.config.engine == "sequential"
        assert "not batched: every parameter is trained" in world.engine.notice


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        *(
            (f"method={name}", f"adapter.kind is full, but it must be lora for {name}, which works")
            for name in ("jcpba", "soft_tsfa", "sflllm", "hetlora", "ffa_lora")
        ),
        ("dtype=bf16", "dtype is bf16, but it must be fp32 where every parameter is trained"),
        ("adapter.dropout=0.1", "adapter.dropout is 0.1, but it must be 0 with adapter.kind"),
        ("adapter.start=some", "adapter.start is some, but it must be null with adapter.kind"),
        ("adapter.kind=half", "adapter.kind is half, but it must be one of lora, full"),
    ],
)
def test_refusals_before_anything_is_written(
    change: str, sentence: str, airtune: Any, tmp_path: Path
) -> None:
    code, out, err = airtune("run", "--out", "run", *quick("adapter.kind=full", change))
    assert (code, out) == (2, "")
    assert sentence in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_search_for_ranks_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"adapter\.kind is full"):
        Experiment.load(None, settings("method=soft_tsfa", "soft_tsfa.rank_search=true")).run(
            tmp_path / "run"
        )


def test_an_arm_of_a_comparison() -> None:
    comparison = read_comparison(
        None, ["fedlora", "fedlora:adapter.kind=full+bandwidth=equal"], settings=["rounds=2"]
    )
    lora, full = (arm.configs[0] for arm in comparison.arms)
    assert (lora.adapter.kind, full.adapter.kind) == ("lora", "full")
    assert full.section(FedloraSection).bandwidth == "equal"
