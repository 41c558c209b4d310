"""PEFT, imported without bitsandbytes: its layers for quantised bases are not used here.

Wherever bitsandbytes is installed, PEFT imports it, for seconds at every start; with it comes
torch's compiler, and where the package `kernels` is installed a question to the Hugging Face hub.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NAME = "bitsandbytes"


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """PEFT inside does not see bitsandbytes, unless it is imported already."""
    if _NAME in sys.modules:
        yield
        return
    sys.modules[_NAME] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_NAME]
        _forget_answers()


def _forget_answers() -> None:
    """PEFT remembers what it found; other users of PEFT in this process must find it."""
    asked = sys.modules.get("peft.import_utils")
    for name in ("is_bnb_available", "is_bnb_4bit_available"):
        forget = getattr(getattr(asked, name, None), "cache_clear", None)
        if forget is not None:
            forget()


with without_bitsandbytes():
    import peft as peft
