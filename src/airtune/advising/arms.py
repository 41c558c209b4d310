"""The methods that advice is asked for, each as the experiment with that method."""

from collections.abc import Sequence
from dataclasses import dataclass

from airtune.comparison.definition import is_given, laid_over, method_keys
from airtune.config.experiment import ExperimentConfig
from airtune.config.text import flat, plain_values, scalar
from airtune.errors import AirtuneError, InputError
from airtune.experiment.reading import check_filled
from airtune.experiment.unused import unused_error, unused_keys
from airtune.methods.registry import find_method, method_names


@dataclass(frozen=True)
class Arm:
    """One method: its name in `--methods`, its experiment, and the settings that lead there.

    `is_own`: it is the experiment as it stands.
    """

    name: str
    config: ExperimentConfig
    settings: tuple[str, ...] = ()
    is_own: bool = False


def arms_of(config: ExperimentConfig, methods: Sequence[str] | None) -> list[Arm]:
    """The experiment's own method and every other federated one, or those that are asked for.

    Raises InputError for an unknown method, and for options that a method does not have.
    """
    if methods is None:
        others = [name for name in method_names() if name != config.method]
        return [
            Arm(config.method, config, is_own=True),
            *(_arm(config, name) for name in others if find_method(name).is_federated),
        ]
    if not methods or len(set(methods)) < len(methods):
        raise InputError("--methods", ",".join(methods) or "empty", "a list without repetition")
    return [
        Arm(name, config, is_own=True) if name == config.method else _arm(config, name)
        for name in methods
    ]


def _arm(config: ExperimentConfig, text: str) -> Arm:
    keys = method_keys(text)
    settings = tuple(f"{key}={scalar(value)}" for key, value in flat(keys))
    try:
        made = check_filled(laid_over(plain_values(config, given=True), keys))
        find_method(made.method)
    except AirtuneError as error:
        raise error.within(f"--methods {text}") from None
    for key, needed in unused_keys(made):
        if is_given(keys, key):
            raise unused_error(made, key, needed).within(f"--methods {text}")
    return Arm(text, made, settings)
