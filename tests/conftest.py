"""Shared fixtures. Real data sets are optional: tests that need them skip with a reason."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

settings.register_profile("airtune", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("airtune")

DATA = Path(
    os.environ.get("AIRTUNE_TEST_DATA") or Path(__file__).parents[1].parent / "shared" / "data"
)


def _skipped_without_avx512(error: RuntimeError) -> NoReturn:
    """Attention in bf16 needs AVX-512 where the processor has it, also where torch is told to
    leave it unused (`make test-processors`)."""
    if os.environ.get("ATEN_CPU_CAPABILITY") and "pack_vnni" in str(error):
        pytest.skip("torch was told to leave AVX-512 unused, which its attention in bf16 needs")
    raise error


@pytest.fixture
def heard_signals() -> Iterator[None]:
    """Under nohup and in a shell's background job some are ignored, also by what a test starts."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        _skipped_without_avx512(error)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        _skipped_without_avx512(error)


@pytest.fixture(autouse=True, scope="session")
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What airtune remembers of a user stays out of the home folder of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets beside the checkout, or wherever AIRTUNE_TEST_DATA points."""
    if not DATA.is_dir():
        pytest.skip(f"no data folder at {DATA}; set AIRTUNE_TEST_DATA to one")
    return DATA
