"""The optional packages that a deployment needs."""

from collections.abc import Iterator
from contextlib import contextmanager

from airtune.errors import AirtuneError, reason_of

PACKAGES = {"grpc": "grpcio", "cryptography": "cryptography"}
"""Module -> the package that it is installed with."""


@contextmanager
def deploy_extra() -> Iterator[None]:
    """Around imports of `airtune.deploy`: a missing or broken package becomes one sentence.

    Raises AirtuneError that names the package and the extra.
    """
    try:
        yield
    except ImportError as error:
        package = PACKAGES.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        missing = isinstance(error, ModuleNotFoundError) and error.name in PACKAGES
        reason = "is not installed" if missing else f"cannot be imported ({reason_of(error)})"
        raise AirtuneError(
            f"airtune deploy needs {package}, which {reason}: pip install 'airtune[deploy]'."
        ) from error
