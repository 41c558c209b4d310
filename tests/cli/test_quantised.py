"""`dtype: nf4` and `int8`, end to end on the built-in model."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bitsandbytes", reason="needs airtune[quant]")

from airtune import Experiment
from airtune.errors import AirtuneError
from airtune.experiment.digests import weights_digest
from airtune.experiment.reading import read_config
from airtune.experiment.run import Run
from airtune.experiment.world import build_world
from airtune.tuning import quantised
from airtune.tuning.base_model import load_base
from airtune.tuning.evaluate import evaluate
from tests.cli.conftest import quick
from tests.cli.test_full_tuning import fingerprint as files

KINDS = ("nf4", "int8")


def settings(dtype: str, *changes: str) -> list[str]:
    return quick(f"dtype={dtype}", *changes)[1::2]


def fingerprint(folder: Path) -> dict[str, str]:
    """What two runs of one seed must share, and what clients carry."""
    model = folder / "model"
    if not model.exists():
        model.symlink_to(folder / "adapter")
    return files(folder)


@pytest.fixture(scope="module", params=["nf4", pytest.param("int8", marks=pytest.mark.slow)])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One quick run that several tests look at."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    Experiment.load(None, settings(request.param)).run(folder)
    return folder


def dtype_of(folder: Path) -> str:
    return read_config(folder / "experiment.yaml").dtype


def test_it_learns_and_says_what_is_quantised(finished: Path) -> None:
    dtype, run = dtype_of(finished), Run.open(finished)
    assert run.summary["final_test_loss"] < run.summary["start_test_loss"]
    said = " ".join(run.summary["notices"])
    assert (
        f"The matrices in the blocks of builtin are held in {dtype} and multiplied in bf16" in said
    )
    assert f"Training rates are charged for {dtype}" in said
    assert "q8_0 (galaxy-s25, pixel-9) and in fp32 (raspberry-pi-5" in said
    versions = json.loads((finished / "environment.json").read_text())["packages"]
    assert "bitsandbytes" in versions


def test_less_memory_and_the_same_time_as_fp32() -> None:
    plain, bf16 = (Experiment.load(None, settings(d)).preview() for d in ("fp32", "bf16"))
    for dtype in KINDS:
        ours = Experiment.load(None, settings(dtype)).preview()
        for one, half, other in zip(
            ours["clients"], bf16["clients"], plain["clients"], strict=True
        ):
            assert one["memory_bytes"] < half["memory_bytes"] < other["memory_bytes"]
            assert one["compute_s"] == other["compute_s"]
        assert ours["uplink_bits"] == plain["uplink_bits"]


@pytest.mark.slow
def test_workers_give_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    changes = settings(dtype_of(finished), "engine=workers", "workers=2")
    Experiment.load(None, changes).run(tmp_path / "run")
    ours, theirs = fingerprint(tmp_path / "run"), fingerprint(finished)
    for name in ("experiment.yaml", "report.html"):
        assert ours.pop(name) != theirs.pop(name), "they say which engine ran"
    assert ours == theirs


def test_stacks_give_the_same_losses(finished: Path, tmp_path: Path) -> None:
    changes = settings(dtype_of(finished), "compute_dtype=fp32")
    one = Experiment.load(None, changes).run(tmp_path / "one")
    stacked = Experiment.load(None, [*changes, "engine=batched"]).run(tmp_path / "stacked")
    assert build_world(read_config(tmp_path / "stacked/experiment.yaml")).engine.name == "batched"
    for name in ("start_test_loss", "final_test_loss"):
        assert stacked.summary[name] == pytest.approx(one.summary[name], rel=1e-4)


def test_killed_and_continued_to_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    """`kill -9` after round 1."""
    code = f"""
import os, signal
from airtune import Experiment

class Kill:
    def round_done(self, record):
        os.kill(os.getpid(), signal.SIGKILL)

Experiment.load(None, {settings(dtype_of(finished))!r}).run({str(tmp_path / "run")!r}, Kill())
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    Experiment.resume(tmp_path / "run")
    assert fingerprint(tmp_path / "run") == fingerprint(finished)


@pytest.mark.slow
def test_another_base_is_named(finished: Path, tmp_path: Path) -> None:
    """On resume: another dtype or computing dtype."""
    dtype = dtype_of(finished)
    Experiment.load(None, settings(dtype, "rounds=1")).run(tmp_path / "run")
    path = tmp_path / "run/experiment.yaml"
    text = path.read_text()
    other = {"nf4": "int8", "int8": "nf4"}[dtype]
    path.write_text(text.replace(f"dtype: {dtype}", f"dtype: {other}", 1))
    with pytest.raises(AirtuneError, match=f"dtype is {other} and was {dtype}"):
        Experiment.resume(tmp_path / "run", more_rounds=1)
    path.write_text(text.replace("compute_dtype: null", "compute_dtype: fp32", 1))
    with pytest.raises(AirtuneError, match="compute_dtype is fp32 and was null"):
        Experiment.resume(tmp_path / "run", more_rounds=1)
    path.write_text(text)
    Experiment.resume(tmp_path / "run", more_rounds=1)


def test_digests_tell_bases_apart() -> None:
    """Packed weights, and scales alone; the same base twice has one digest."""
    choices = (("nf4", None), ("nf4", "fp32"), ("int8", None), ("bf16", None))
    found = [weights_digest(load_base("builtin", d, compute_dtype=c).model) for d, c in choices]
    assert len(set(found)) == len(found)
    model = load_base("builtin", "nf4").model
    assert weights_digest(model) == found[0]
    model.model.layers[0].mlp.up_proj.mean_scale.mul_(2)
    assert weights_digest(model) != found[0]


@pytest.mark.slow
def test_a_merged_export_is_dequantised(finished: Path, airtune: Any, tmp_path: Path) -> None:
    code, out, _ = airtune("export", finished, "merged", "--merge")
    assert code == 0
    assert f"Its weights are bf16: those of the {dtype_of(finished)} base, dequantised" in out
    merged = load_base("merged", "bf16")
    world = build_world(read_config(finished / "experiment.yaml"))
    reported = json.loads((finished / "summary.json").read_text())["final_test_loss"]
    # The sum is rounded to bf16 once more.
    assert evaluate(merged.model, world.tests.batches()).loss == pytest.approx(reported, rel=0.01)
    code, out, _ = airtune("eval", finished, "--json")
    assert (code, json.loads(out)["tuned"]["test_loss"]) == (0, reported)
    code, out, _ = airtune("generate", finished, "--count", 1, "--max-new-tokens", 4)
    assert (code, out.count("after  ")) == (0, 1)
    code, out, _ = airtune("export", finished, "adapter")
    assert (code, out) == (0, "Wrote the adapter to adapter.\n")


@pytest.mark.parametrize(
    "method",
    [
        "sflllm",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("soft_tsfa", "hetlora", "ffa_lora", "centralised")
        ),
    ],
)
def test_every_method_that_does_not_prune(method: str, tmp_path: Path) -> None:
    run = Experiment.load(None, settings("nf4", f"method={method}", "rounds=1")).run(tmp_path / "r")
    assert run.summary["final_test_loss"] > 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (("dtype=nf4", "method=jcpba"), "dtype is nf4, but it must be one of fp32, fp16, bf16"),
        (("dtype=int8", "method=jcpba"), "would have to be quantised anew"),
        (("dtype=nf4", "adapter.kind=full"), "dtype is nf4, but it must be fp32 where every"),
        (("dtype=int4",), "dtype is int4, but it must be one of fp32, bf16, fp16, nf4, int8"),
        (
            ("compute_dtype=bf16",),
            "compute_dtype is bf16, but it must be left out unless dtype is nf4 or int8",
        ),
        (("dtype=nf4", "compute_dtype=int8"), "compute_dtype is int8, but it must be"),
    ],
)
def test_refusals_before_anything_is_written(
    changes: tuple[str, ...], sentence: str, airtune: Any, tmp_path: Path
) -> None:
    code, out, err = airtune("run", "--out", "run", *quick(*changes))
    assert (code, out) == (2, "")
    assert sentence in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_without_bitsandbytes(airtune: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(quantised, "is_there", lambda: False)
    code, _, err = airtune("run", "--out", "run", *quick("dtype=nf4"))
    assert code == 2
    assert "install it: pip install 'airtune[quant]'" in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_profile(airtune: Any) -> None:
    code, out, _ = airtune("profile", "llama-3.1-8b", "--dtype", "nf4", "--json")
    content = json.loads(out)
    assert (code, content["dtype"], content["compute_dtype"]) == (0, "nf4", None)
    # 6.98e9 numbers in the blocks at 4.127 bit, 1.05e9 outside in bf16.
    assert content["whole"]["weight_bytes"] == pytest.approx(6.98e9 * 4.127 / 8 + 2.1e9, rel=2e-3)
    code, out, _ = airtune("profile", "gpt2", "--dtype", "int8", "--compute-dtype", "fp32")
    assert code == 0
    assert "blocks in int8, the rest and every product in fp32" in " ".join(out.split())
    code, _, err = airtune("profile", "gpt2", "--compute-dtype", "fp32")
    assert code == 2
    assert "compute_dtype is fp32, but it must be left out" in err
