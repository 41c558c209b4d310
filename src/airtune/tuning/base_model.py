"""The frozen language model: the built-in one, a local folder, or a hub name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from airtune.errors import InputError
from airtune.tuning.fused_gelu import fuse_gelu

BUILTIN = "builtin"
CPU, CUDA = "cpu", "cuda"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class BaseModel:
    """A causal language model and its tokenizer; `location` is what `from_pretrained` got."""

    model: Any
    tokenizer: Any
    location: str

    @property
    def name(self) -> str:
        """What an adapter's config calls its base: no place inside this package."""
        return BUILTIN if self.location == model_location(BUILTIN) else self.location

    @property
    def config(self) -> dict[str, Any]:
        """The Hugging Face config as a mapping, which is all that the workload model reads."""
        return dict(self.model.config.to_dict())

    @property
    def embeddings(self) -> int:
        """The number of token ids that the model knows."""
        return int(self.model.get_input_embeddings().weight.shape[0])


def model_location(name: str) -> str:
    """Where `from_pretrained` finds the model: `builtin` ships inside this package."""
    if name == BUILTIN:
        return str(files("airtune") / "builtin_model")
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


@contextmanager
def _quiet_bars() -> Iterator[None]:
    """transformers' bars of a model that is loaded, or written, in a blink are noise between our
    own lines."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def load_base(name: str, dtype: str = "fp32", device: str = CPU) -> BaseModel:
    """Load a model and its tokenizer, frozen, without dropout, in the dtype and where asked for.

    `from_pretrained` would keep the checkpoint's own dtype, so the dtype is always passed.
    Raises InputError when neither a folder nor a reachable hub repository has that name.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if dtype not in DTYPES:
        raise InputError("dtype", dtype, f"one of {', '.join(DTYPES)}")
    location = model_location(name)
    try:
        with _quiet_bars():
            model = AutoModelForCausalLM.from_pretrained(location, dtype=DTYPES[dtype])
            tokenizer = AutoTokenizer.from_pretrained(location)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(
            "model",
            name,
            "'builtin', a folder that AutoModelForCausalLM loads, or a hub name",
            f"check the name, or the network if it is on a hub (transformers says: {reason})",
        ) from None
    model.requires_grad_(False)
    model.eval()
    fuse_gelu(model)
    return BaseModel(model.to(device), tokenizer, location)


def write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """A model folder that `AutoModelForCausalLM` loads, without transformers' bars."""
    with _quiet_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def resolve_device(asked: str) -> str:
    """`cpu` or `cuda`; `auto` is a GPU where torch sees one.

    Raises InputError for `cuda` where torch sees none.
    """
    present = torch.cuda.is_available()
    if asked == CUDA and not present:
        raise InputError(
            "device", asked, "auto or cpu on this machine, where torch sees no GPU",
            "check the driver, and that torch is a CUDA build",
        )  # fmt: skip
    return CUDA if present and asked != CPU else CPU


def use_threads(count: int | None) -> int:
    """Set torch's threads (None: one per usable core) and return the number in force."""
    torch.set_num_threads(count or usable_cores())
    return torch.get_num_threads()


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
