"""Which engine `auto` takes, and how a cohort is dealt out."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from airtune.config import read_config
from airtune.errors import InputError
from airtune.experiment import engine as engine_module
from airtune.experiment.engine import choose_engine, clients_at_once, training_device
from airtune.federated.backend import deal
from airtune.tuning import base_model
from airtune.tuning.tuner import FullTuner, Tuner


@dataclass(frozen=True)
class OwnTuner(Tuner):
    """Knows nothing of stacks."""

    def tune(self, start: Any, plan: Any, context: Any) -> Any:
        raise NotImplementedError


def choice(
    *settings: str, tokens: float = 200.0, tuner: Tuner | None = None
) -> tuple[str, int | None]:
    found = choose_engine(read_config(None, list(settings)), side_of(tuner or FullTuner()), tokens)
    return found.name, found.workers


def side_of(tuner: Tuner) -> Any:
    model = SimpleNamespace(named_modules=dict)
    return SimpleNamespace(method=SimpleNamespace(tuner=tuner), model=model)


@pytest.mark.parametrize(
    ("settings", "shape", "expected"),
    [
        ((), {}, ("batched-workers", 2)),
        (("rounds=1",), {}, ("batched", None)),
        (("threads=2",), {}, ("batched", None)),
        (("cohort.size=1",), {}, ("sequential", None)),
        ((), {"tokens": 2000.0}, ("workers", 2)),
        ((), {"tuner": OwnTuner()}, ("workers", 2)),
        (("workers=3",), {}, ("batched-workers", 3)),
        (("engine=sequential",), {}, ("sequential", None)),
        (("engine=workers",), {}, ("workers", 2)),
        (("engine=batched-workers", "workers=1"), {}, ("batched-workers", 1)),
        (("engine=batched-workers",), {"tuner": OwnTuner()}, ("workers", 2)),
    ],
)
def test_choice(
    settings: tuple[str, ...], shape: Any, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "usable_cores", lambda: 2)
    assert choice(*settings, **shape) == expected


def on_gpu(monkeypatch: pytest.MonkeyPatch, *settings: str, tokens: float = 200.0) -> Any:
    monkeypatch.setattr(base_model.torch.cuda, "is_available", lambda: True)
    config = read_config(None, list(settings))
    device = training_device(config)
    return choose_engine(config, side_of(FullTuner()), tokens, device)


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


def test_stacks_are_bounded_by_memory() -> None:
    one_client = 7 * 4 * 1000
    assert clients_at_once({"a": (10, 100)}) == engine_module.STACK_BYTES // one_client
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
