"""A deployed run has the records and the adapter of `airtune run`, byte for byte."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from airtune.experiment import Experiment
from tests.deploy.harness import deployment, same_run

CASES = {
    "fedlora": ("method=fedlora",),
    "fedlora, a cohort that falls silent": ("cohort.size=2", "cohort.dropout=0.3", "rounds=3"),
    "fedkseed, a cohort that falls silent": (
        "method=fedkseed",
        "training.learning_rate=0.003",
        "cohort.size=2",
        "cohort.dropout=0.3",
        "rounds=4",
    ),
    "jcpba": ("method=jcpba", "jcpba.pruning_budget=0.3"),
    "soft_tsfa": ("method=soft_tsfa",),
    "hetlora": ("method=hetlora",),
    "sflllm, one server side": ("method=sflllm",),
    "sflllm, copies": ("method=sflllm", "sflllm.server_side=copies"),
    "sflllm, labels at clients": ("method=sflllm", "sflllm.labels_at=client"),
    "sflllm, copies and labels at clients": (
        "method=sflllm",
        "sflllm.server_side=copies",
        "sflllm.labels_at=client",
    ),
}


SLOW = (
    "fedlora",
    "jcpba",
    "soft_tsfa",
    "hetlora",
    "sflllm, one server side",
    "sflllm, copies",
    "sflllm, labels at clients",
)
"""What the other cases show as well, but for how the cases are combined."""


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES],
)
def test_a_deployed_run_is_the_simulated_one(case: str, four_keys: Path, tmp_path: Path) -> None:
    settings = ("clients.count=4", *CASES[case])
    job = deployment(tmp_path, *settings, keys=four_keys)
    Experiment.load(None, job.settings).run(tmp_path / "simulated")
    job.run()
    same_run(tmp_path / "simulated", job.folder)
    assert any("with mutual TLS" in sentence for sentence in job.said)


@pytest.mark.parametrize("dtype", [pytest.param("nf4", marks=pytest.mark.slow), "int8"])
def test_clients_that_quantise_for_themselves(dtype: str, four_keys: Path, tmp_path: Path) -> None:
    """The job names both dtypes, and the fingerprint of the base is the server's."""
    pytest.importorskip("bitsandbytes", reason="needs airtune[quant]")
    settings = ("clients.count=2", f"dtype={dtype}", "compute_dtype=fp32")
    job = deployment(tmp_path, *settings, keys=four_keys)
    Experiment.load(None, job.settings).run(tmp_path / "simulated")
    job.run()
    same_run(tmp_path / "simulated", job.folder)


def test_a_server_that_is_started_again_takes_the_trackers_that_are_named_then(
    tmp_path: Path,
) -> None:
    own = "report_to=tests.trackers.own:Kept"
    job = deployment(tmp_path, "clients.count=2", "rounds=1", "training.local_steps=1")
    job.run()
    again = replace(job, settings=(*job.settings, own), listening=threading.Event(), port=0)
    again.run()
    calls = (job.folder / "kept.jsonl").read_text().splitlines()
    assert [json.loads(call)[0] for call in calls] == ["begin", "log", "end"]
