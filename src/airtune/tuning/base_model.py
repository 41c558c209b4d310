"""The frozen language model: the built-in one, a local folder, or a hub name.

Its weights can lie in memory that several processes map, one copy for all of them: on Linux only
(an anonymous file in memory, reached through /proc, gone with its process). Elsewhere each process
keeps a copy of its own.
"""

import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from airtune.errors import InputError, foreign_input
from airtune.tuning.decoder_check import refuse_lookahead
from airtune.tuning.quantised import quantise_blocks, require_quantiser
from airtune.workload.architecture import architecture_of, closed_form_of, refuse_own_code
from airtune.workload.config_source import bundled_names, is_cached, read_config, require_hub
from airtune.workload.precision import Precision

BUILTIN = "builtin"
CPU, CUDA = "cpu", "cuda"
DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


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
        """The number of token ids in the model's vocabulary."""
        return int(self.model.get_input_embeddings().weight.shape[0])


def model_location(name: str) -> str:
    """Where `from_pretrained` finds the model: `builtin` ships inside this package."""
    if name == BUILTIN:
        return str(files("airtune") / "builtin_model")
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers' bars of a model that is loaded, or written, in a blink are noise between our
    own lines, and `load_base` reports what is wrong with weights."""
    from transformers.utils import logging

    was_on, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if was_on:
            logging.enable_progress_bar()


def load_base(
    name: str,
    dtype: str = "fp32",
    device: str = CPU,
    *,
    compute_dtype: str | None = None,
    trust_remote_code: bool = False,
) -> BaseModel:
    """Load a model and its tokenizer, frozen, without dropout, in the dtype and where asked for.

    `from_pretrained` would keep the checkpoint's own dtype, so the dtype is always passed. For a
    quantised one the whole model is read in `compute_dtype`, and then its matrices are quantised on
    the processor, one after another. Pickles are never read, and Python code of the model's own
    runs only with `trust_remote_code`. Raises InputError when neither a folder nor a reachable hub
    repository has that name, for a model that is no plain decoder, for weights that are not the
    model's, and for a quantised dtype without bitsandbytes.
    """
    from transformers import AutoModelForCausalLM

    precision = Precision(dtype, compute=compute_dtype)
    config = checked_config(name, dtype, compute_dtype, trust_remote_code=trust_remote_code)
    architecture = architecture_of(config)
    location = model_location(name)
    model, info = _from_pretrained(
        AutoModelForCausalLM,
        name,
        trust_remote_code,
        dtype=DTYPES[precision.compute_dtype],
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # `_refuse_other_weights` names the tensor
    )
    _refuse_other_weights(name, info)
    model.requires_grad_(False)
    model.eval()
    fuse_gelu(model)
    if not closed_form_of(config):
        refuse_lookahead(name, model)
    if precision.is_quantised:
        quantise_blocks(model, architecture, dtype)
    tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    return BaseModel(model.to(device), tokenizer, location)


def checked_config(
    name: str, dtype: str, compute_dtype: str | None, *, trust_remote_code: bool
) -> Mapping[str, Any]:
    """The config of a model that can be loaded, checked before gigabytes of weights are read; the
    errors are those of `load_base`."""
    Precision(dtype, compute=compute_dtype)
    require_quantiser(dtype)
    _refuse_without_weights(name)
    config = read_config(name)
    architecture_of(config)
    if not trust_remote_code:
        refuse_own_code(config)
    return config


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model; the errors are those of `load_base`."""
    if name == BUILTIN:
        # What AutoTokenizer makes of it, without importing what it chooses among (1 to 2 s).
        from transformers import PreTrainedTokenizerFast

        return _from_pretrained(PreTrainedTokenizerFast, name, trust_remote_code)
    from transformers import AutoTokenizer

    try:
        return _from_pretrained(AutoTokenizer, name, trust_remote_code)
    except InputError as error:
        # transformers has several kinds and sentences for this, which all name its argument.
        if trust_remote_code or "trust_remote_code" not in str(error.__cause__):
            raise
        raise InputError(
            "model",
            f"{name} (auto_map in tokenizer_config.json)",
            "one whose tokenizer needs no Python code of its own",
            "that code may do anything: if you trust it, set trust_remote_code=true",
        ) from error


def _from_pretrained(kind: Any, name: str, trust_remote_code: bool, **options: Any) -> Any:
    """From the folder or the local hub cache; over the network only what is not there."""
    location = model_location(name)
    options["trust_remote_code"] = trust_remote_code
    allowed = f"'builtin', a folder that {kind.__name__} loads, or a hub name"
    with foreign_input("model", name, allowed, "check that its files are whole"), _quiet():
        try:
            return kind.from_pretrained(location, local_files_only=True, **options)
        except OSError:
            if Path(location).exists():
                raise
            require_hub(name, "model", weights=True)
            return kind.from_pretrained(location, **options)


def _refuse_without_weights(name: str) -> None:
    """A bundled name is a shape alone, another may be nowhere, and pickles are not to be read."""
    folder = Path(name).expanduser()
    if name in bundled_names() and not folder.is_dir() and not is_cached(name):
        raise InputError(
            "model",
            name,
            "a model with weights: 'builtin', a folder, or a hub name owner/name",
            f"{name} is a bundled config, a shape alone: name it as charge_as, or see "
            f"`airtune profile {name}`",
        )
    if name != BUILTIN and not folder.is_dir() and not is_cached(name):
        require_hub(name, "model", weights=True)
    pickles = sorted(path.name for path in folder.glob("*.bin")) if folder.is_dir() else []
    if pickles and not list(folder.glob("*.safetensors")):
        raise InputError(
            "model",
            f"{name} ({pickles[0]})",
            "a folder with model.safetensors",
            "a pickle may run code and is never read: load it elsewhere, and save it with "
            "save_pretrained",
        )


def _refuse_other_weights(name: str, info: Mapping[str, Any]) -> None:
    """A tensor that is missing would be random, one too many would be left out, in silence."""
    for kind, words in (
        ("missing_keys", "is missing"),
        ("mismatched_keys", "has another shape"),
        ("unexpected_keys", "belongs to another kind of model"),
    ):
        if info.get(kind):
            first = min(info[kind], key=str)
            # Of another shape: the name, its shape in the file and that in the model.
            tensor = first if isinstance(first, str) else first[0]
            raise InputError(
                "model",
                name,
                "a model with the weights that its config.json describes",
                f"of its weights, {tensor} {words}",
            )


def write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """A model folder that `AutoModelForCausalLM` loads, without transformers' bars."""
    with _quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def resolve_device(asked: str) -> str:
    """`cpu` or `cuda`; `auto` is a GPU where torch sees one.

    Raises InputError for `cuda` where torch sees none.
    """
    present = torch.cuda.is_available()
    if asked == CUDA and not present:
        raise InputError(
            "device",
            asked,
            "auto or cpu on this machine, where torch sees no GPU",
            "check the driver, and that torch is a CUDA build",
        )
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


def fuse_gelu(model: Any) -> None:
    """Put torch's own tanh approximation in the place of transformers' `NewGELUActivation`.

    Both are `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel, arXiv
    1606.08415, section 2); in fp32 they agree to rounding, in bf16 this one rounds once.
    """
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, nn.GELU(approximate="tanh"))


_ALIGNMENT = 64
"""As torch aligns what it allocates, so that products round alike wherever the weights lie."""


@final
class SharedWeights:
    """Owns the memory; other processes of this user find it at `path` until it is closed."""

    def __init__(self, model: Any) -> None:
        descriptor = os.memfd_create("airtune-weights")
        self.path = f"/proc/{os.getpid()}/fd/{descriptor}"
        weakref.finalize(self, os.close, descriptor)
        os.ftruncate(descriptor, _length(model))
        for parameter, place in _places(model, self.path, shared=True):
            place.copy_(parameter)
            # From here on the process's own copy of this tensor is free.
            parameter.data = place


def share_weights(model: Any) -> SharedWeights | None:
    """Move a model's frozen parameters into shared memory; None where the system, or the model,
    has none: what is trained is each process's own."""
    if not _frozen(model):
        return None
    if not hasattr(os, "memfd_create") or not os.path.isdir("/proc/self/fd"):
        return None
    return SharedWeights(model)


def map_weights(model: Any, path: str) -> None:
    """Use shared weights in place of this model's own, which must be the same."""
    for parameter, place in _places(model, path, shared=False):
        if not torch.equal(parameter, place):
            raise ValueError("the shared weights are those of another model")
        parameter.data = place


def _frozen(model: Any) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if not parameter.requires_grad]


def _length(model: Any) -> int:
    return sum(_padded(parameter) for parameter in _frozen(model))


def _padded(parameter: Tensor) -> int:
    return -(-parameter.numel() * parameter.element_size() // _ALIGNMENT) * _ALIGNMENT


def _places(model: Any, path: str, *, shared: bool) -> list[tuple[Tensor, Tensor]]:
    """Each frozen parameter with its place, in the model's order."""
    memory = torch.from_file(path, shared=shared, size=_length(model), dtype=torch.uint8)
    places, start = [], 0
    for parameter in _frozen(model):
        end = start + parameter.numel() * parameter.element_size()
        places.append((parameter, memory[start:end].view(parameter.dtype).view(parameter.shape)))
        start += _padded(parameter)
    return places
