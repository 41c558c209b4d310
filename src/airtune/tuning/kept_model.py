"""A model that a program holds in memory, as a folder that runs, workers and resumes can load.

The folder lies in the user's cache and is named by a digest of its contents, so that the same model
is written once, and a run that names it can be resumed by any later program.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

from airtune.errors import InputError, foreign_input
from airtune.files import make_folder
from airtune.tuning.base_model import write_model

_NAMES = (str, PurePath, type(None))
_ALLOWED = "a causal language model of transformers"


def keep_model(model: Any, tokenizer: Any, folder: Path | str | None = None) -> str:
    """Write a loaded model and its tokenizer where `model` of an experiment can name them.

    The weights are those of now: what is changed later has another name.

    Args:
        model: a `PreTrainedModel` with a language-model head, neither quantised nor wrapped by
            PEFT.
        tokenizer: its tokenizer.
        folder: the parent folder; by default `airtune/models` in the user's cache folder
            (`$XDG_CACHE_HOME`, else `~/.cache`).

    Returns:
        The path of the model's folder.

    Raises:
        InputError: for anything else, and for a folder that cannot be written.
    """
    _check(model, tokenizer)
    parent = _cache() if folder is None else Path(folder)
    make_folder("model", parent)
    with TemporaryDirectory(dir=parent, prefix=".writing-") as written:
        made = Path(written) / "model"
        with foreign_input("model", type(model).__name__, _ALLOWED, "save_pretrained refuses it"):
            write_model(model, tokenizer, made)
        place = parent / _digest(made)
        try:
            os.rename(made, place)
        except OSError:
            # It is there: this process, or another one, has written the same bytes before.
            if not place.is_dir():
                raise
    return str(place.resolve())


def named_model(keys: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """The keys of an experiment, with a loaded `model` kept under the name of its folder.

    Raises InputError for a tokenizer beside a model that is named: that model has its own.
    """
    model = keys.get("model")
    if not isinstance(model, _NAMES):
        return {**keys, "model": keep_model(model, tokenizer)}
    if tokenizer is not None:
        raise InputError(
            "tokenizer",
            type(tokenizer).__name__,
            "left out where model is a name",
            "give the loaded model, too, or save both with save_pretrained into one folder",
        )
    return dict(keys)


def _check(model: Any, tokenizer: Any) -> None:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    kind = type(model).__name__
    if hasattr(model, "peft_config"):
        remedy = "give the base model, and the adapter's folder as adapter.start"
        raise InputError("model", f"a {kind} with an adapter", _ALLOWED, remedy)
    if not isinstance(model, PreTrainedModel):
        raise InputError("model", f"a {kind}", f"a name, a folder, or {_ALLOWED}")
    if getattr(model, "is_quantized", False):
        remedy = "load it without quantisation; dtype: nf4 or int8 quantises it for the run"
        raise InputError("model", f"a quantised {kind}", _ALLOWED, remedy)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise InputError("model", f"a {kind} without weights (on the meta device)", _ALLOWED)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        given = "missing" if tokenizer is None else f"a {type(tokenizer).__name__}"
        raise InputError("tokenizer", given, "the tokenizer of the loaded model")


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "airtune" / "models"


def _digest(folder: Path) -> str:
    """Of every file's name and bytes."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            found.update(f"{len(name)} {name} {path.stat().st_size}\n".encode())
            with path.open("rb") as stream:
                while block := stream.read(1 << 22):
                    found.update(block)
    return found.hexdigest()[:16]
