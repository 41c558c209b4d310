"""Keys of an experiment that have no effect in its combination of others.

Nothing is ignored in silence: such a key is refused by name where its value is not the default's.
The resolved experiment of a run, which lists every default, is therefore always accepted. A value
that a stage before round 1 replaces (a searched rank, the rounds of a local accuracy) is not
refused: the stage reports what it chose.
"""

from collections.abc import Iterator
from typing import Any

from airtune.config.experiment import ExperimentConfig
from airtune.cost.device import refuse_unnamed
from airtune.errors import InputError
from airtune.methods.registry import find_method
from airtune.methods.spec import Unused
from airtune.wireless.unused import refuse_unused_cell_keys, replaced_keys
from airtune.workload.quantised import QUANTISED

DEFAULTS = ExperimentConfig()


def refuse_unused(config: ExperimentConfig) -> None:
    """Raise InputError for the first key that differs from its default and changes nothing."""
    for key, needed in unused_keys(config):
        raise unused_error(config, key, needed)
    refuse_unused_cell_keys(config.cell)
    refuse_unnamed(config.clients.device_file, config.clients.devices)


def unused_error(config: ExperimentConfig, key: str, needed: str) -> InputError:
    """The sentence for one of `unused_keys`."""
    value = config.value_of(key)
    return InputError(key, value, f"left out unless {needed}", "it would have no effect")


def unused_keys(config: ExperimentConfig) -> list[Unused]:
    """Every key without effect, `cell` aside, with what would give it one."""
    rules = (
        _of_model,
        _of_methods,
        _of_parts,
        _of_method,
        _of_adapter,
        _of_data,
        _of_training,
        _of_engine,
        _of_pacing,
    )
    found = [pair for rule in rules for pair in rule(config)]
    return [(key, needed) for key, needed in found if config.value_of(key) != _default(config, key)]


def replaced_notice(config: ExperimentConfig) -> list[str]:
    """A sentence where a trace or a recording replaces keys of propagation that were set."""
    keys = replaced_keys(config.cell)
    if not keys:
        return []
    source = "cell.trace" if config.cell.trace is not None else "cell.replay"
    names = ", ".join(f"cell.{key}" for key in keys)
    return [
        f"{source} replaces propagation, so {names} {'has' if len(keys) == 1 else 'have'} no "
        "effect."
    ]


def _default(config: ExperimentConfig, key: str) -> Any:
    first, _, rest = key.partition(".")
    if first in config.methods:
        return getattr(type(config.methods[first])(), rest)
    return DEFAULTS.value_of(key)


def _keys(needed: str, *keys: str) -> Iterator[Unused]:
    return ((key, needed) for key in keys)


def _of_model(config: ExperimentConfig) -> Iterator[Unused]:
    if config.dtype not in QUANTISED:
        yield from _keys(f"dtype is {' or '.join(QUANTISED)}", "compute_dtype")


def _of_methods(config: ExperimentConfig) -> Iterator[Unused]:
    for name, section in config.methods.items():
        if name != config.method:
            keys = type(section).model_fields
            yield from _keys(f"method is {name}", *(f"{name}.{key}" for key in keys))


def _of_parts(config: ExperimentConfig) -> Iterator[Unused]:
    for part, options in find_method(config.method).part_options.items():
        if getattr(config, part) is not None:
            needed = f"{part} is that of {config.method} (give {part} the option, or leave it out)"
            yield from _keys(needed, *(f"{config.method}.{name}" for name in options))


def _of_method(config: ExperimentConfig) -> Iterator[Unused]:
    spec = find_method(config.method)
    return spec.unused(config, config.section(spec.options))


def _of_adapter(config: ExperimentConfig) -> Iterator[Unused]:
    if config.adapter.kind == "full":
        yield from _keys(
            "adapter.kind is lora", "adapter.rank", "adapter.alpha", "adapter.target_modules"
        )


def _of_data(config: ExperimentConfig) -> Iterator[Unused]:
    part = config.data.partition
    if part.kind not in ("dirichlet", "size"):
        yield from _keys("data.partition.kind is dirichlet or size", "data.partition.concentration")
    if part.kind not in ("column", "dirichlet"):
        yield from _keys("data.partition.kind is column or dirichlet", "data.partition.column")


def _of_training(config: ExperimentConfig) -> Iterator[Unused]:
    if config.server.optimizer == "none":
        yield from _keys(
            "server.optimizer is momentum or adam", "server.learning_rate", "server.momentum"
        )
    if config.server.optimizer != "adam":
        yield from _keys("server.optimizer is adam", "server.second_momentum", "server.adaptivity")


def _of_engine(config: ExperimentConfig) -> Iterator[Unused]:
    if config.backend != "ray":
        yield from _keys("backend is ray", "ray_address")
        if config.engine in ("sequential", "batched"):
            yield from _keys("engine is auto, workers or batched-workers", "workers")


def _of_pacing(config: ExperimentConfig) -> Iterator[Unused]:
    pacing, rule = config.pacing, "pacing.staleness"
    if pacing.kind != "buffered":
        yield from _keys("pacing.kind is buffered", "pacing.buffer")
    if pacing.kind != "semi":
        yield from _keys("pacing.kind is semi", "pacing.period_s")
    if pacing.kind == "synchronous":
        names = ("mixing_rate", "most_staleness", "sharing", "staleness.kind")
        yield from _keys(
            "pacing.kind is buffered, asynchronous or semi", *(f"pacing.{name}" for name in names)
        )
    own = {"polynomial": ("exponent",), "hinge": ("threshold", "slope"), "constant": ()}
    used = () if pacing.kind == "synchronous" else own[pacing.staleness.kind]
    for kind, options in own.items():
        keys = (f"{rule}.{name}" for name in options if name not in used)
        yield from _keys(f"{rule}.kind is {kind}", *keys)
