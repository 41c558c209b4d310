"""Which engine `auto` takes, and how a cohort is dealt out."""

import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airtune.errors import InputError
from airtune.experiment import engine
from airtune.experiment.engine import (
    JobShape,
    choose_engine,
    clients_at_once,
    free_bytes,
    starts_ahead,
    training_device,
)
from airtune.experiment.reading import read_config
from airtune.federated.backends.backend import deal
from airtune.tuning.tuner import FullTuner, Tuner
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import load_architecture


@dataclass(frozen=True)
class OwnTuner(Tuner):
    """Knows nothing of stacks."""

    def tune(self, start: Any, plan: Any, context: Any) -> Any:
        raise NotImplementedError


def choice(
    *settings: str, tokens: float = 200.0, tuner: Tuner | None = None
) -> tuple[str, int | None]:
    found = choose_engine(
        read_config(None, list(settings)), side_of(tuner or FullTuner()), shape_of(tokens)
    )
    return found.name, found.workers


def shape_of(tokens: float = 200.0) -> JobShape:
    """A step of 0.02 FLOP-seconds a hundred tokens."""
    return JobShape(tokens, tokens * 1e7, 1e8, {"a": (10, 100)})


def side_of(tuner: Tuner) -> Any:
    model = SimpleNamespace(named_modules=dict, named_parameters=dict)
    return SimpleNamespace(method=SimpleNamespace(tuner=tuner), model=model)


def test_a_large_batch_needs_no_more_memory_than_its_parts() -> None:
    def pass_bytes(rows: int, *settings: str) -> float:
        config = read_config(None, [f"training.batch_size={rows}", *settings])
        architecture = load_architecture("gpt2")
        return JobShape.of(config, architecture, AdapterShape(8), 64.0 * rows, {}).pass_bytes

    assert pass_bytes(512) == pass_bytes(8)
    assert pass_bytes(512, "engine=batched-workers") > 5 * pass_bytes(512)


def test_a_worker_reads_the_model_before_it_quantises_it() -> None:
    def pass_bytes(*settings: str) -> float:
        config = read_config(None, list(settings))
        architecture = load_architecture("llama-3.1-70b")
        return JobShape.of(config, architecture, AdapterShape(8), 16.0, {}).pass_bytes

    assert pass_bytes("dtype=nf4") == 2 * 70_553_706_496 < pass_bytes("dtype=bf16")


@pytest.mark.parametrize(
    ("settings", "shape", "expected"),
    [
        ((), {}, ("batched-workers", 2)),
        (("rounds=1",), {}, ("batched", None)),
        (("rounds=1",), {"tokens": 1000.0}, ("batched-workers", 2)),
        (("threads=2",), {}, ("batched", None)),
        (("cohort.size=1",), {}, ("sequential", None)),
        ((), {"tokens": 2000.0}, ("workers", 2)),
        ((), {"tuner": OwnTuner()}, ("workers", 2)),
        (("workers=3",), {}, ("batched-workers", 3)),
        (("engine=sequential",), {}, ("sequential", None)),
        (("engine=workers",), {}, ("workers", 2)),
        (("engine=batched-workers", "workers=1"), {}, ("batched-workers", 1)),
        (("engine=workers", "workers=200"), {}, ("workers", 8)),  # at most one a client
        (("engine=batched-workers",), {"tuner": OwnTuner()}, ("workers", 2)),
    ],
)
def test_choice(
    settings: tuple[str, ...], shape: Any, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "usable_cores", lambda: 2)
    assert choice(*settings, **shape) == expected


def on_gpu(monkeypatch: pytest.MonkeyPatch, *settings: str, tokens: float = 200.0) -> Any:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    config = read_config(None, list(settings))
    device = training_device(config)
    return choose_engine(config, side_of(FullTuner()), shape_of(tokens), device)


def test_on_a_gpu_one_process_trains_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    found = on_gpu(monkeypatch)
    assert (found.name, found.workers, found.device) == ("batched", None, "cuda")
    assert found.notice == "Engine: batched on cuda."
    assert on_gpu(monkeypatch, tokens=10_000.0).name == "batched", "a GPU wants more rows"
    assert on_gpu(monkeypatch, "device=cpu").notice.startswith("Engine: batched-workers on cpu, ")
    assert on_gpu(monkeypatch, "engine=workers").device == "cpu"
    for settings in (("engine=workers",), ("backend=ray",)):
        with pytest.raises(InputError, match="device is cuda, but it must be auto or cpu"):
            on_gpu(monkeypatch, "device=cuda", *settings)


@pytest.mark.parametrize(
    ("free", "workers", "told"),
    [
        (math.inf, 4, ""),
        # 0.5 GB for the process, 0.1 GB for a pass, little for the stack; 0.8 of it counts.
        (3.2e9, 4, ""),
        (2.4e9, 3, "a worker needs 0.6 GB, and 2.4 GB are free"),
        (1.0e9, None, "a worker needs 0.6 GB, and 1 GB are free"),
    ],
)
def test_workers_that_memory_holds(
    free: float, workers: int | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "usable_cores", lambda: 4)
    monkeypatch.setattr(engine, "free_bytes", lambda: free)
    found = choose_engine(read_config(None, []), side_of(FullTuner()), shape_of())
    assert (found.workers, found.reason) == (workers, told)
    asked = read_config(None, ["engine=workers", "workers=4"])
    assert choose_engine(asked, side_of(FullTuner()), shape_of()).workers == 4, "as asked for"


def test_short_jobs_say_why_they_take_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "usable_cores", lambda: 2)
    found = choose_engine(read_config(None, ["rounds=1"]), side_of(FullTuner()), shape_of())
    assert found.reason == "about 2.6 s of training, too short for worker processes"
    assert starts_ahead(read_config(None, []))
    assert not starts_ahead(read_config(None, ["rounds=1"]))
    assert not starts_ahead(read_config(None, ["engine=batched"]))
    assert starts_ahead(read_config(None, ["engine=workers", "rounds=1"]))


def test_free_memory_is_the_lesser_of_machine_and_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(engine, "_CGROUP", tmp_path)
    assert free_bytes() == math.inf, "nobody says"
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    3000 kB\n")
    assert free_bytes() == 3000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1024\n")
    assert free_bytes() == 3000 * 1024
    (tmp_path / "memory.max").write_text("2048\n")
    assert free_bytes() == 1024


def test_stacks_are_bounded_by_memory() -> None:
    one_client = 7 * 4 * 1000
    assert clients_at_once({"a": (10, 100)}) == engine.STACK_BYTES // one_client
    assert clients_at_once({"a": (10_000, 100_000)}) == 2


@pytest.mark.parametrize(
    ("tasks", "count", "largest", "sizes"),
    [
        (32, 2, 100, [16, 16]),
        (33, 2, 100, [16, 17]),
        (32, 2, 5, [4, 4, 4, 4, 4, 4, 4, 4]),
        (1, 2, 100, [1]),
        (0, 2, 100, []),
        (5, 5, 1, [1, 1, 1, 1, 1]),
        (5, 1, 2, [1, 2, 2]),
    ],
)
def test_dealing(tasks: int, count: int, largest: int, sizes: list[int]) -> None:
    numbers: Any = list(range(tasks))
    parts = deal(numbers, count, largest)
    assert [len(part) for part in parts] == sizes
    assert [number for part in parts for number in part] == numbers
