"""Keys of an experiment that have no effect in its combination of others.

Nothing is ignored in silence: such a key is refused by name where its value is not the default's.
The resolved experiment of a run, which lists every default, is therefore always accepted. A value
that a stage before round 1 replaces (a searched rank, the rounds of a local accuracy) is not
refused: the stage says what it chose.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from airtune.config.experiment import ExperimentConfig
from airtune.cost.device import refuse_unnamed
from airtune.errors import InputError
from airtune.wireless.unused import refuse_unused_cell_keys, replaced_keys

DEFAULTS = ExperimentConfig()
SECTIONS = ("fedlora", "jcpba", "soft_tsfa", "hetlora", "ffa_lora", "sflllm")
"""Sections that belong to the method of their name."""
OF_PART: Mapping[str, tuple[str, ...]] = {
    "planner": (
        "bandwidth", "solver", "pruning_budget", "pruning_rate_max", "budget_search", "sparsity",
        "latency_target_s", "target_share", "v", "virtual_queue", "outage_latency_s", "rank_min",
        "split_point", "split_points",
    ),
    "tuner": ("penalty", "penalty_form"),
    "codec": ("uplink_dtype", "sparsifier", "choice"),
    "aggregator": ("merge", "orthogonalise"),
}  # fmt: skip
"""Options of the method's own part, which mean nothing where that part is replaced."""

Unused = tuple[str, str]
"""A key and what would give it an effect."""


def refuse_unused(config: ExperimentConfig) -> None:
    """Raise InputError for the first key that differs from its default and changes nothing."""
    for key, needed in unused_keys(config):
        raise unused_error(config, key, needed)
    refuse_unused_cell_keys(config.cell)
    refuse_unnamed(config.clients.device_file, config.clients.devices)


def unused_error(config: ExperimentConfig, key: str, needed: str) -> InputError:
    """The sentence for one of `unused_keys`."""
    value = _value(config, key)
    return InputError(key, value, f"left out unless {needed}", "it would have no effect")


def unused_keys(config: ExperimentConfig) -> list[Unused]:
    """Every key without effect, `cell` aside, with what would give it one."""
    rules = (_of_methods, _of_parts, _of_jcpba, _of_soft_tsfa, _of_adapter, _of_data,
             _of_training, _of_engine)  # fmt: skip
    found = [pair for rule in rules for pair in rule(config)]
    return [(key, needed) for key, needed in found if _value(config, key) != _value(DEFAULTS, key)]


def replaced_notice(config: ExperimentConfig) -> list[str]:
    """A sentence where a trace or a recording replaces keys of propagation that were set."""
    keys = replaced_keys(config.cell)
    if not keys:
        return []
    source = "cell.trace" if config.cell.trace is not None else "cell.replay"
    names = ", ".join(f"cell.{key}" for key in keys)
    return [f"{source} replaces propagation, so {names} {'has' if len(keys) == 1 else 'have'} no "
            "effect."]  # fmt: skip


def _value(config: ExperimentConfig, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _keys(needed: str, *keys: str) -> Iterator[Unused]:
    return ((key, needed) for key in keys)


def _of_methods(config: ExperimentConfig) -> Iterator[Unused]:
    for name in SECTIONS:
        if name != config.method:
            keys = type(getattr(config, name)).model_fields
            yield from _keys(f"method is {name}", *(f"{name}.{key}" for key in keys))


def _of_parts(config: ExperimentConfig) -> Iterator[Unused]:
    section = getattr(config, config.method, None)
    if section is None:
        return
    for part, options in OF_PART.items():
        if getattr(config, part) is not None:
            own = [name for name in options if name in type(section).model_fields]
            needed = f"{part} is that of {config.method} (give {part} the option, or leave it out)"
            yield from _keys(needed, *(f"{config.method}.{name}" for name in own))


def _of_jcpba(config: ExperimentConfig) -> Iterator[Unused]:
    section = config.jcpba
    if config.method != "jcpba":
        return
    if section.solver in ("no-pruning", "none"):
        yield from _keys("jcpba.solver prunes", "jcpba.pruning_budget", "jcpba.pruning_rate_max",
                         "jcpba.budget_search")  # fmt: skip
    if section.importance != "activations":
        yield from _keys("jcpba.importance is activations", "jcpba.calibration",
                         "jcpba.calibration_rows")  # fmt: skip


def _of_soft_tsfa(config: ExperimentConfig) -> Iterator[Unused]:
    section = config.soft_tsfa
    if config.method != "soft_tsfa":
        return
    if section.sparsifier == "dense":
        yield from _keys("soft_tsfa.sparsifier is not dense", "soft_tsfa.solver",
                         "soft_tsfa.merge")  # fmt: skip
    if section.sparsifier == "svd":
        yield from _keys("soft_tsfa.sparsifier is not svd", "soft_tsfa.merge")
    if section.solver != "fixed-sparsity":
        yield from _keys("soft_tsfa.solver is fixed-sparsity", "soft_tsfa.sparsity")
    if section.penalty == 0:
        yield from _keys("soft_tsfa.penalty is above 0", "soft_tsfa.penalty_form")
    if section.sparsifier != "importance":
        yield from _keys("soft_tsfa.sparsifier is importance", "soft_tsfa.importance",
                         "soft_tsfa.choice")  # fmt: skip


def _of_adapter(config: ExperimentConfig) -> Iterator[Unused]:
    if config.adapter.kind == "full":
        yield from _keys("adapter.kind is lora", "adapter.rank", "adapter.alpha",
                         "adapter.target_modules")  # fmt: skip


def _of_data(config: ExperimentConfig) -> Iterator[Unused]:
    part = config.data.partition
    if config.method == "centralised":
        yield from _keys("method is not centralised, which holds all rows at one client",
                         "data.partition.kind", "data.partition.concentration",
                         "data.partition.column")  # fmt: skip
    if part.kind not in ("dirichlet", "size"):
        yield from _keys("data.partition.kind is dirichlet or size", "data.partition.concentration")
    if part.kind not in ("column", "dirichlet"):
        yield from _keys("data.partition.kind is column or dirichlet", "data.partition.column")


def _of_training(config: ExperimentConfig) -> Iterator[Unused]:
    if config.method == "centralised":
        yield from _keys("method is not centralised, whose optimiser is never reset",
                         "training.keep_optimizer")  # fmt: skip
        yield from _keys("method is not centralised, which has one client", "cohort.dropout")
    if config.server.optimizer == "none":
        yield from _keys("server.optimizer is momentum or adam", "server.learning_rate",
                         "server.momentum")  # fmt: skip
    if config.server.optimizer != "adam":
        yield from _keys("server.optimizer is adam", "server.second_momentum",
                         "server.adaptivity")  # fmt: skip


def _of_engine(config: ExperimentConfig) -> Iterator[Unused]:
    if config.backend != "ray":
        yield from _keys("backend is ray", "ray_address")
        if config.engine in ("sequential", "batched"):
            yield from _keys("engine is auto, workers or batched-workers", "workers")
