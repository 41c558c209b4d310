"""What a run depends on, as digests and values: made when it begins, compared when it continues.

Differences are reported or refused.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from airtune.config.experiment import PART_KEYS, ExperimentConfig
from airtune.config.text import flat, plain_values
from airtune.errors import AirtuneError
from airtune.experiment.world import World
from airtune.federated.records.fingerprint import (
    DIGEST_BYTES,
    Difference,
    Fingerprint,
    differing_contents,
    differing_keys,
)
from airtune.methods.registry import find_method, installed_methods
from airtune.tuning.base_model import BaseModel
from airtune.workload.config_source import read_config

RESULTLESS = (
    "engine",
    "workers",
    "backend",
    "ray_address",
    "device",
    "threads",
    "stop.",
    "format",
    "data.score_rows",
    "deploy.",
    "report_to",
)
"""Keys that change no round, up to rounding; a trailing dot means a section."""
NAMING = (
    "model",
    "charge_as",
    "data.train",
    "data.test",
    "data.chat_template",
    "adapter.start",
    "clients.device_file",
    "cell.trace",
    "cell.trace_downlink",
    "cell.replay",
)
"""Keys that name a place; what is there has a digest."""
WEIGHTS, TOKENIZER, TEST = "the base weights", "the tokenizer or its chat template", "the test data"
MODEL_CONFIG, CHARGED = "the model's config", "the config of charge_as"
_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version")


def fingerprint(world: World) -> Fingerprint:
    """What the rounds of this world depend on; call it before anything is trained."""
    return Fingerprint(
        result_keys(world.config),
        _contents(world),
        world.shards.digests(),
    )


def result_keys(config: ExperimentConfig) -> dict[str, Any]:
    """Every key that changes a round, by dotted name, with its value; templates stay templates.

    The number of rounds is one where the learning rate follows it.
    """
    values = _with_digests(plain_values(config), config)
    for other in config.methods.keys() - {config.method}:
        del values[other]
    if config.training.schedule == "constant":
        del values["rounds"]
    spec = find_method(config.method)
    own = [f"{spec.name}.{key}" for key in (*spec.switches, *spec.files)]
    return {
        key: value
        for key, value in flat(values)
        if not any(_under(key, name) for name in (*RESULTLESS, *NAMING, *own))
    }


def _with_digests(values: dict[str, Any], config: ExperimentConfig) -> dict[str, Any]:
    """Templates with a digest of what the environment makes of them, but for options of parts,
    which may be secret and short."""
    for place, (template, filled) in config._templates.items():
        holder: Any = values
        with suppress(KeyError, IndexError, TypeError):
            for key in place[:-1]:
                holder = holder[key]
            part = any(_under(".".join(map(str, place)), key) for key in PART_KEYS)
            if holder[place[-1]] == template and not part:
                holder[place[-1]] = f"{template} (digest {digest(filled)[:8]})"
    return values


def _under(key: str, name: str) -> bool:
    return key == name or key.startswith(name if name.endswith(".") else f"{name}.")


def _contents(world: World) -> dict[str, str]:
    config, test = world.config, world.tests.encoded
    found = shared_contents(config, world.base)
    found[TEST] = digest([test.token_ids, test.starts, test.prompt_length, test.label])
    if config.charge_as:
        found[CHARGED] = config_digest(config.charge_as)
    for device in {device.name: device for device in world.devices}.values():
        found[f"the device profile {device.name}"] = digest(
            [
                device.training_flop_rate,
                device.memory_bytes,
                device.computing_power_w,
                device.tx_power_dbm,
                *([device.idle_power_w] if config.energy.is_planned else []),
            ]
        )
    for key, path in _channel_files(config):
        found[_of_file(key, path)] = _file_digest(path)
    for part in user_parts(config):
        found[f"the source of {part.field} {part.name}"] = part.digest
    return found


def shared_contents(config: ExperimentConfig, base: BaseModel) -> dict[str, str]:
    """What the server and its clients must have alike, by digest: the base model, its tokenizer,
    and what the method rests on."""
    found = {
        WEIGHTS: weights_digest(base.model),
        TOKENIZER: tokenizer_digest(base.tokenizer),
        MODEL_CONFIG: config_digest(config.model),
    }
    rests_on = find_method(config.method).rests_on
    for what, content in rests_on(config).items() if rests_on else ():
        if isinstance(content, Path):
            found[_of_file(what, content)] = _file_digest(content)
        else:
            found[what] = digest(content)
    package = method_source(config.method)
    if package is not None:
        found[f"the source of method {config.method}"] = package
    return found


def _of_file(key: str, path: Path) -> str:
    return f"{key}, the file {path.name},"


def _channel_files(config: ExperimentConfig) -> Iterator[tuple[str, Path]]:
    for key in ("cell.trace", "cell.trace_downlink", "cell.replay"):
        value = config.value_of(key)
        for name in [value] if isinstance(value, str) else value or []:
            yield key, Path(name).expanduser()


def weights_digest(model: Any) -> str:
    """SHA-256 of frozen weights and buffers, without a LoRA adapter on them; a tied one once."""
    seen: set[tuple[int, int]] = set()
    named = []
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.nbytes)
        if ".lora_" not in name and place not in seen:
            seen.add(place)
            named.append((name.replace(".base_layer.", "."), tensor))
    with ThreadPoolExecutor() as pool:
        # Hashing leaves Python's lock, so that threads do it side by side.
        digests = list(pool.map(lambda entry: _tensor_digest(entry[1]), named))
    return digest([[name for name, _ in named], digests])


def _tensor_digest(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(data.data).hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """Vocabulary, special tokens, chat template; how texts are cut shows in the data's digests."""
    special = {key: str(value) for key, value in sorted(tokenizer.special_tokens_map.items())}
    vocabulary = sorted(tokenizer.get_vocab().items())
    return digest([vocabulary, special, getattr(tokenizer, "chat_template", None)])


def config_digest(name: str) -> str:
    """A model's config file, without the keys that name its origin."""
    config = read_config(name)
    return digest({key: config[key] for key in sorted(config) if key not in _NOT_OF_THE_MODEL})


def digest(value: Any) -> str:
    """SHA-256 of plain values and arrays, in hexadecimal, cut short."""
    total = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            part = part.numpy()
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype}{part.shape}".encode())
            total.update(part.tobytes())
        elif isinstance(part, list | tuple):
            total.update(f"list {len(part)}".encode())
            for entry in part:
                add(entry)
        else:
            total.update(json.dumps(part, sort_keys=True, default=str).encode())

    add(value)
    return total.hexdigest()[: 2 * DIGEST_BYTES]


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[: 2 * DIGEST_BYTES]


def method_source(name: str) -> str | None:
    """A digest of the package of an installed method, once it is imported; None for airtune's own.

    All its files count, since what a method composes is imported when it is needed.
    """
    entry = installed_methods().get(name)
    if entry is None:
        return None
    top = sys.modules[entry.module.partition(".")[0]]
    folders = list(getattr(top, "__path__", ()))
    paths = [path for folder in folders for path in sorted(Path(folder).rglob("*.py"))]
    if not folders and top.__file__:
        paths = [Path(top.__file__)]
    return digest([_file_digest(path) for path in paths])


@dataclass(frozen=True)
class UserPart:
    """A part by import path: its key, its name, the file of its source, and a digest of the source
    with that of the modules beside it which it uses; `no source` where none can be read."""

    field: str
    name: str
    file: Path | None
    digest: str


def user_parts(config: ExperimentConfig) -> list[UserPart]:
    """Parts of the experiment that are named by import path, once they are imported."""
    found = []
    for field in PART_KEYS:
        spec = config.value_of(field)
        name = spec.get("use") if isinstance(spec, Mapping) else spec
        if isinstance(name, str) and ":" in name:
            found.append(_user_part(field, name))
    return found


def own_trackers(config: ExperimentConfig) -> list[UserPart]:
    """Trackers that are named by import path, once they are imported; no round depends on them."""
    named = config.report_to if isinstance(config.report_to, list) else [config.report_to]
    names = [spec.get("use") if isinstance(spec, Mapping) else spec for spec in named]
    return [
        _user_part("report_to", name) for name in names if isinstance(name, str) and ":" in name
    ]


def _user_part(field: str, name: str) -> UserPart:
    sources = _sources(sys.modules.get(name.partition(":")[0]))
    if not sources:
        return UserPart(field, name, None, "no source")
    return UserPart(field, name, sources[0], digest([_file_digest(path) for path in sources]))


def _sources(module: ModuleType | None) -> list[Path]:
    """A module's file, then those of modules from the same folder that it reaches by its names."""
    files: dict[Path, None] = {}
    waiting = [module] if module is not None else []
    while waiting:
        file = getattr(waiting[0], "__file__", None)
        here, path = waiting.pop(0), Path(file) if file else None
        if path is None or path in files or path.suffix != ".py" or not path.is_file():
            continue
        root = next(iter(files), path).parent
        inside = path.is_relative_to(root) and "site-packages" not in path.relative_to(root).parts
        if not inside or here.__name__.partition(".")[0] == "airtune":
            continue
        files[path] = None
        for value in vars(here).values():
            owner = getattr(value, "__module__", None)
            inner = value if isinstance(value, ModuleType) else sys.modules.get(str(owner))
            if inner is not None and inner is not here:
                waiting.append(inner)
    first = list(files)[:1]
    return first + sorted(path for path in files if path not in first)


ACCEPT = "--accept-changes"
_NAMED = 5
_READERS_NEED = (WEIGHTS, MODEL_CONFIG, TOKENIZER, TEST)


def refusal(folder: Path, found: Sequence[Difference]) -> AirtuneError:
    """The sentence that names what is not as it was."""
    named = "; ".join(str(change) for change in found[:_NAMED])
    rest = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return AirtuneError(
        f"{folder} no longer has what its checkpoint was made with: {named}{rest}. Restore that, "
        f"or give {ACCEPT} to continue with what is there now."
    )


def refuse_other_model(folder: Path, known: Fingerprint | None, world: World) -> None:
    """For readers of a run: refuse another model, tokenizer, test set, or shape of the adapter."""
    if known is None:
        return
    now = fingerprint(world)
    found = [
        change for change in differing_contents(known, now) if change.name in _READERS_NEED
    ] + [
        change
        for change in differing_keys(known.keys, now.keys)
        if change.name in ("dtype", "compute_dtype") or change.name.startswith("adapter.")
    ]
    if found:
        raise refusal(folder, found)
