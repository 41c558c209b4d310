"""Names that a shell completes; each is read when the shell asks for it, without torch."""

from collections.abc import Iterable


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def methods(incomplete: str) -> list[str]:
    """Methods that can be run or planned."""
    from airtune.methods.registry import problem_specs, shipped_methods

    return _beginning(dict.fromkeys([*shipped_methods(), *problem_specs()]), incomplete)


def arms(incomplete: str) -> list[str]:
    """Methods in a list that commas divide: the last one is completed."""
    from airtune.methods.registry import method_names

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in _beginning(method_names(), last)]


def models(incomplete: str) -> list[str]:
    """The built-in model, and published ones whose shapes come along."""
    from airtune.workload.config_source import BUILTIN_MODEL, bundled_names

    return _beginning([BUILTIN_MODEL, *bundled_names()], incomplete)


def devices(incomplete: str) -> list[str]:
    """Device profiles."""
    from airtune.cost.device import load_devices

    return _beginning(load_devices(), incomplete)


def problems(incomplete: str) -> list[str]:
    """Example problems."""
    from airtune.shipped import PROBLEMS, shipped_names

    return _beginning(shipped_names(PROBLEMS), incomplete)


def experiments(incomplete: str) -> list[str]:
    """Experiments and comparisons that come along."""
    from airtune.shipped import EXPERIMENTS, shipped_names

    return _beginning(shipped_names(EXPERIMENTS), incomplete)
