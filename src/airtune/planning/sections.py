"""Reading the sections that a problem shares with an experiment: adapter, cell, clients, training.

Keys and defaults are those of `airtune run`; a test holds them together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from airtune.cost.device import DeviceProfile, find_device, load_devices, refuse_unnamed
from airtune.errors import InputError
from airtune.planning.fields import FINITE, POSITIVE, REQUIRED, is_number, refuse_unknown
from airtune.planning.reading import MOST_COUNTED, Reader
from airtune.planning.scene import Scene
from airtune.quantities import FloatArray
from airtune.wireless.cell import CellSettings
from airtune.wireless.unused import refuse_unused_cell_keys
from airtune.workload.adapter_shape import ALL_LINEAR
from airtune.workload.architecture import Architecture, load_architecture
from airtune.workload.payload import dtype_bits
from airtune.workload.step import Step
from airtune.workload.transformer import Precision

DEVICES = ("galaxy-s25", "raspberry-pi-5", "pixel-9", "laptop-cpu")
CLIENTS = 8
"""Defaults of an experiment."""
MOST_CLIENTS = 10_000
MOST_DRAWS = 50_000
"""Channels of single clients that may be drawn to reach a round: some seconds, with 3GPP fading."""
MEAN = "mean"
"""`round: mean`: the gains without small-scale fading."""

_TOP = (
    "method",
    "model",
    "dtype",
    "adapter",
    "cell",
    "clients",
    "training",
    "tokens",
    "round",
    "seed",
    "uplink_dtype",
)
# The keys after the first two (three) do not change what a step costs; they are known so that an
# experiment's section can be used as it is.
_ADAPTER = (
    "rank",
    "target_modules",
    "kind",
    "alpha",
    "dropout",
    "start",
    "alpha_pattern",
    "rank_pattern",
)
_TRAINING = (
    "batch_size",
    "local_steps",
    "optimizer",
    "learning_rate",
    "max_grad_norm",
    "keep_optimizer",
    "schedule",
    "warmup_rounds",
)
_CLIENTS = ("count", "devices", "device_file")


def read_scene(
    mapping: Mapping[str, Any],
    own_keys: Sequence[str],
    *,
    weighted: bool = False,
    local_steps: Any = REQUIRED,
) -> Scene:
    """The sections of an experiment in a problem whose method also has `own_keys`.

    Args:
        weighted: whether the method weighs its clients (`clients.examples`).
        local_steps: default of `training.local_steps`.

    Raises:
        InputError: unknown keys first, then values, each in one sentence.
    """
    refuse_unknown(mapping, (*_TOP, *own_keys), "")
    top = Reader(mapping)
    adapter = _section(mapping, "adapter", _ADAPTER)
    if adapter.text("kind", "lora") != "lora":
        raise InputError(
            "adapter.kind",
            adapter.text("kind"),
            "lora in a planning problem",
            "ranks and LoRA's factors are what the methods planned here divide",
        )
    if (mapping.get("adapter") or {}).get("rank_pattern"):
        raise InputError(
            "adapter.rank_pattern",
            mapping["adapter"]["rank_pattern"],
            "left out of a planning problem",
            "every adapted matrix has adapter.rank there",
        )
    training = _section(mapping, "training", _TRAINING)
    clients = _section(mapping, "clients", (*_CLIENTS, "examples") if weighted else _CLIENTS)
    count = clients.count("count", CLIENTS, most=MOST_CLIENTS)
    model = top.text("model", "builtin")
    architecture = load_architecture(model)
    scene = Scene(
        method=top.text("method"),
        model=model,
        architecture=architecture,
        rank=adapter.count("rank") if adapter.has("rank") else None,
        targets=_targets(mapping.get("adapter") or {}),
        step=_step(architecture, training.count("batch_size"), top.count("tokens")),
        local_steps=training.count("local_steps", local_steps),
        precision=Precision(read_dtype(top, "dtype"), training.text("optimizer", "adamw")),
        uplink_dtype=read_dtype(top, "uplink_dtype"),
        cell=_cell(mapping),
        devices=_devices(mapping.get("clients") or {}, count),
        examples=_examples(clients, count) if weighted else None,
        round_index=_round(top, mapping.get("round"), count),
        seed=top.count("seed", 0, least=0),
    )
    scene.adapter.ranks(architecture)
    return scene


def _round(top: Reader, value: Any, clients: int) -> int | None:
    """The round whose channel is planned for; None for the mean of the fading.

    Channels are drawn round by round, so a late round of many clients would take very long.
    """
    if isinstance(value, str) and value == MEAN:
        return None
    latest = MOST_DRAWS // clients - 1
    index = top.count("round", 0, least=0)
    if index > latest:
        raise InputError(
            "round",
            index,
            f"at most {latest} with {clients} clients, or {MEAN}",
            f"its channel comes after {index} others, which would all have to be drawn",
        )
    return index


def read_dtype(top: Reader, key: str) -> str:
    """A floating point type by airtune's name, fp32 by default."""
    name = top.text(key, "fp32")
    dtype_bits(name, key)
    return name


def _section(mapping: Mapping[str, Any], key: str, known: Sequence[str]) -> Reader:
    """A section with closed keys, all of them optional; absent: empty."""
    value = mapping.get(key)
    value = {} if value is None else value
    reader = Reader(value, key)
    refuse_unknown(value, known, key)
    return reader


def _cell(mapping: Mapping[str, Any]) -> CellSettings:
    """CellSettings checks its own values; unknown keys and absurd magnitudes are found here."""
    _section(mapping, "cell", [entry.name for entry in fields(CellSettings)])
    given = dict(mapping.get("cell") or {})
    for key, value in given.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not is_number(value) or not FINITE.holds(value):
                words = FINITE.refusal(value) if is_number(value) else FINITE.words
                raise InputError(f"cell.{key}", value, words)
            # A whole number beyond 64 bits would make arrays of objects.
            given[key] = float(value) if abs(value) > MOST_COUNTED else value
    settings = CellSettings(**given)
    refuse_unused_cell_keys(settings)
    return settings


def _targets(adapter: Mapping[str, Any]) -> str | tuple[str, ...]:
    value = adapter.get("target_modules")
    if value is None or isinstance(value, str):
        return value or ALL_LINEAR
    return _words(value, "adapter.target_modules", "module")


def _devices(clients: Mapping[str, Any], count: int) -> tuple[DeviceProfile, ...]:
    """Profiles assigned to the clients round-robin."""
    value = clients.get("devices")
    value = DEVICES if value is None else [value] if isinstance(value, str) else value
    names = _words(value, "clients.devices", "device")
    own = clients.get("device_file")
    refuse_unnamed(None if own is None else Path(str(own)), names)
    known = load_devices(None if own is None else Path(str(own)))
    kinds = [find_device(name, known) for name in names]
    return tuple(kinds[client % len(kinds)] for client in range(count))


def _examples(clients: Reader, count: int) -> FloatArray | None:
    return clients.vector("examples", POSITIVE, count) if clients.has("examples") else None


def _words(value: Any, field: str, kind: str) -> tuple[str, ...]:
    listed = isinstance(value, list | tuple) and len(value) > 0
    if not listed or not all(isinstance(word, str) for word in value):
        raise InputError(field, value, f"a list of {kind} names")
    return tuple(value)


def _step(architecture: Architecture, batch_size: int, tokens: int) -> Step:
    if tokens > architecture.max_tokens:
        allowed = f"at most {architecture.max_tokens}, the model's own limit"
        raise InputError("tokens", tokens, allowed)
    return Step(batch_size, tokens)
