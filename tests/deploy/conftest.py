"""Keys of a small deployment, made once, and certificates that are no longer valid."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airtune.deploy import certificates
from airtune.deploy.issuing import make_keys

HOST = "fl.example.org"


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
