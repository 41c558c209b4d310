"""Keys of a small deployment, made once, and certificates that are no longer valid."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airtune.deploy import certificates, trainer
from airtune.deploy.issuing import make_keys

HOST = "fl.example.org"


@pytest.fixture(autouse=True)
def ended_by_signals(heard_signals: None) -> None:
    """Servers and clients of a deployment end by them."""


@pytest.fixture(scope="session")
def four_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of keys for four clients, which no test changes."""
    folder = tmp_path_factory.mktemp("deployment") / "keys"
    make_keys(folder, 4)
    return folder


@pytest.fixture(scope="session")
def made_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of keys for two clients, which no test changes."""
    folder = tmp_path_factory.mktemp("deployment") / "keys"
    make_keys(folder, 2, [HOST, "10.0.0.7"])
    return folder


@contextmanager
def validity(first_days: float, last_days: float) -> Iterator[None]:
    """Certificates made within are valid from and until so many days from now."""
    now = datetime.now(UTC).replace(microsecond=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "CLOCK_SKEW", timedelta(days=-first_days))
        patch.setattr(certificates, "_end", lambda days: now + timedelta(days=last_days))
        yield


@pytest.fixture(autouse=True)
def _one_model_is_loaded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are processes; where tests make them threads, transformers cannot load in two."""
    lock, load = threading.Lock(), trainer.load_trainer

    def guarded(*arguments: Any) -> Any:
        with lock:
            return load(*arguments)

    monkeypatch.setattr(trainer, "load_trainer", guarded)
