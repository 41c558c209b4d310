"""Tokens of one forward pass on a GPU, from what is free on it; the driver is played."""

from collections.abc import Callable

import pytest

from airtune.errors import InputError
from airtune.experiment import gpu_memory
from airtune.experiment.gpu_memory import with_tokens
from airtune.experiment.loading import load_model
from airtune.experiment.reading import read_config
from airtune.experiment.trained import trained_shape
from airtune.tuning.base_model import BaseModel, load_base
from airtune.tuning.local import TrainingSettings
from airtune.workload.architecture import load_architecture
from airtune.workload.step import Step
from airtune.workload.transformer import workload

Free = Callable[[float], None]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Free:
    """Sets how many bytes the driver says are free."""

    def put(size: float) -> None:
        monkeypatch.setattr(gpu_memory, "free_gpu_bytes", lambda: size)

    return put


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base("builtin")


def settled(base: BaseModel, *changes: str, device: str = "cuda") -> int | None:
    config = read_config(None, ["data.max_tokens=128", *changes])
    architecture = load_architecture("builtin")
    return with_tokens(config, base, architecture, trained_shape(config), device).tokens_at_once


def test_as_many_rows_as_fit(base: BaseModel, free: Free) -> None:
    """By hand: memory is that of one row times their number, beside the adapter and its moments."""
    config = read_config(None, [])
    work = workload(load_architecture("builtin"), trained_shape(config), Step(7, 128))
    weights = 4 * work.parameters
    free((work.memory_bytes - weights) / gpu_memory.SHARE * (1 + 1e-9))
    assert settled(base) == 7 * 128
    free((work.memory_bytes - weights) / gpu_memory.SHARE * (1 - 1e-9))
    assert settled(base) == 6 * 128


def test_limits(base: BaseModel, free: Free) -> None:
    free(1e12)
    assert settled(base) == 2**15
    assert settled(base, "tokens_at_once=512") == 512
    assert settled(base, device="cpu") is None
    free(40e6)
    plain, less = settled(base), settled(base, "training.gradient_checkpointing=true")
    assert plain is not None
    assert less is not None
    assert less > plain
    assert settled(base, "training.gradient_accumulation=2") == plain


def test_not_even_a_row(base: BaseModel, free: Free) -> None:
    free(1e6)
    with pytest.raises(InputError, match=r"a GPU with at least .* for one row of 128 tokens"):
        settled(base)


def test_what_is_settled_is_used() -> None:
    config = read_config(None, ["tokens_at_once=300", "data.max_tokens=64"])
    assert load_model(config).config.tokens_at_once == 300
    assert TrainingSettings(tokens_at_once=300).limit("cpu") == 300
    assert (TrainingSettings().limit("cpu"), TrainingSettings().limit("cuda")) == (2048, 2**15)
