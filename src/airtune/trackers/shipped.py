"""The trackers that an experiment names: checked before anything is loaded, then made.

A client library is an optional package of its own and is imported only where its tracker is named.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from airtune.errors import AirtuneError, InputError, foreign_code
from airtune.section import Section, check
from airtune.trackers.options import MlflowOptions, TensorBoardOptions, WandbOptions
from airtune.trackers.tracker import Tracker
from airtune.user_parts import check_class, made_part, name_and_options

KEY = "report_to"


@dataclass(frozen=True)
class Shipped:
    """A tracker of airtune: its class, its options, the modules that it needs, and their extra."""

    place: str
    options: type[Section]
    modules: Mapping[str, str]
    extra: str


TRACKERS = {
    "tensorboard": Shipped(
        "airtune.trackers.tensorboard:TensorBoard",
        TensorBoardOptions,
        {"tensorboard": "tensorboard"},
        "tensorboard",
    ),
    "wandb": Shipped("airtune.trackers.wandb:Wandb", WandbOptions, {"wandb": "wandb"}, "wandb"),
    "mlflow": Shipped(
        "airtune.trackers.mlflow:Mlflow", MlflowOptions, {"mlflow": "mlflow-skinny"}, "mlflow"
    ),
}


def open_trackers(named: Any) -> dict[str, Tracker]:
    """The trackers of the key `report_to`, by name, checked; nothing is opened yet.

    Raises InputError for an unknown name or option and for one that is named twice, and
    AirtuneError where its package is missing.
    """
    specs = named if isinstance(named, list) else [] if named is None else [named]
    found: dict[str, Tracker] = {}
    for spec in specs:
        name, options = name_and_options(spec, KEY)
        if name in found:
            raise InputError(KEY, f"{name} twice", "each tracker once", "leave one out")
        found[name] = _made(name, options)
        with foreign_code(f"The tracker {name}", "mend that, or set report_to=null"):
            found[name].check()
    return found


def _made(name: str, options: Mapping[str, Any]) -> Tracker:
    shipped = TRACKERS.get(name)
    if shipped is None:
        check_class(name, options, (Tracker,), KEY, TRACKERS)
        own: Tracker = made_part(name, options, KEY, TRACKERS)
        return own
    section = check(shipped.options, options, KEY)
    for module, package in shipped.modules.items():
        if find_spec(module) is None:
            raise AirtuneError(
                f"report_to {name} needs {package}, which is not installed: pip install "
                f"'airtune[{shipped.extra}]', or set report_to=null."
            )
    module_name, _, attribute = shipped.place.partition(":")
    made: Tracker = getattr(import_module(module_name), attribute)(section)
    return made
