"""Every method, killed in the middle of a run and resumed, to the same bytes on every engine."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from airtune import Experiment
from airtune.methods.registry import shipped_methods
from tests.cli.conftest import quick
from tests.cli.test_run import fingerprint

LONG = ("rounds=4", "training.local_steps=2", "data.score_rows=0")
MOMENTS = "training.keep_optimizer=true"
FULL = ("adapter.kind=full", "training.learning_rate=0.003")
CASES: dict[str, tuple[str, ...]] = {
    "fedlora": (MOMENTS, "cohort.dropout=0.3", "fedlora.uplink_dtype=int8"),
    "fedlora-personal": ("adapter.personal=['*.lora_B.*']", MOMENTS, "cohort.size=2"),
    "fedlora-server": ("server.optimizer=adam", "adapter.dropout=0.2"),
    "jcpba": (MOMENTS, "jcpba.uplink_dtype=int8"),
    "jcpba-energy": (MOMENTS, "energy.weight_s_per_j=0.1"),
    "soft_tsfa": (
        "adapter.rank=4",
        "soft_tsfa.error_feedback=true",
        "soft_tsfa.orthogonalise=none",
        "soft_tsfa.merge=mean",
    ),
    "hetlora": ("adapter.rank=4", MOMENTS),
    "ffa_lora": (MOMENTS, "ffa_lora.downlink_dtype=fp16"),
    "lora_fair": (MOMENTS, "cohort.size=2"),
    "flora": ("cohort.size=2", "flora.uplink_dtype=int8"),
    "flora-ranks": ("adapter.rank=4", "flora.rank_min=2", "cohort.dropout=0.3"),
    "fedex_lora": ("cohort.size=2", MOMENTS),
    "ferret": ("ferret.directions=500", MOMENTS),
    "ferret-sums": (
        *FULL,
        "ferret.directions=900",
        "ferret.shared=true",
        "ferret.downlink=coefficients",
        "cohort.size=2",
    ),
    "fedkseed": ("training.learning_rate=0.003", "cohort.size=2"),
    "fedkseed-full": ("adapter.kind=full", "training.learning_rate=0.0003", "fedkseed.seeds=9"),
    "sampled_lora": (MOMENTS,),
    "sampled_lora-ranks": ("adapter.rank=4", "sampled_lora.least_rank=1"),
    "centralised": (MOMENTS,),
    "sflllm": (MOMENTS, "sflllm.uplink_dtype=int8"),
    "hsfl": (MOMENTS, "seed=1"),
    "hsfl-rarely": (
        MOMENTS,
        "hsfl.client_halves=averaged",
        "hsfl.cuts=common",
        "hsfl.aggregate_every=3",
    ),
    "epsl": (MOMENTS, "training.batch_size=4", "epsl.gradient_dtype=int8", "cohort.dropout=0.3"),
    "epsl-averaged": (MOMENTS, "epsl.client_halves=averaged", "epsl.uplink_dtype=int8"),
    "fedsl": (
        MOMENTS,
        "fedsl.cut_dropout=0.4",
        "fedsl.pruning_rate=0.3",
        "fedsl.aggregate_every=3",
        "adapter.dropout=0.2",
    ),
    "fedsl-target": (MOMENTS, "fedsl.latency_target_s=0.12", "cohort.dropout=0.3"),
}
ENGINES = {
    "sequential": (),
    "batched": (),
    "workers": ("workers=2",),
    "batched-workers": ("workers=2",),
}
TOGETHER = ("sflllm", "hsfl", "epsl", "fedsl")
"""Their clients train together with the main server, in one process."""


def settings(case: str, engine: str) -> list[str]:
    chosen = quick(f"method={case.partition('-')[0]}", *LONG, *CASES[case])[1::2]
    plain = [one for one in chosen if not one.startswith("engine=")]
    return [*plain, f"engine={engine}", *ENGINES[engine]]


def killed(chosen: list[str], folder: Path) -> None:
    """A run whose process is killed when its second round is done."""
    code = f"""
import os, signal
from airtune import Experiment

def kill(record):
    if record.round == 2:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    Experiment.load(None, {chosen!r}).run({str(folder)!r}, kill)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL


def test_every_method_has_a_case() -> None:
    composed = {name for name, spec in shipped_methods().items() if spec.compose is not None}
    assert {case.partition("-")[0] for case in CASES} == composed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "engine"),
    [
        (case, engine)
        for case in CASES
        for engine in ENGINES
        if engine == "sequential" or case.partition("-")[0] not in TOGETHER
    ],
)
def test_killed_and_resumed_to_the_same_bytes(case: str, engine: str, tmp_path: Path) -> None:
    """Residuals, moments, halves, increments and draws go on as they were."""
    chosen = settings(case, engine)
    whole = Experiment.load(None, chosen).run(tmp_path / "whole")
    killed(chosen, tmp_path / "killed")
    Experiment.resume(tmp_path / "killed")
    assert fingerprint(tmp_path / "killed") == fingerprint(whole.folder.path)
