"""The registered methods: those that airtune ships, and those of installed packages.

A package adds a method through the entry point group `airtune.methods`, whose names are method
names and whose objects are `MethodSpec`s. It is imported where an experiment names the method, not
before.
"""

import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from airtune.errors import InputError, foreign_code
from airtune.federated.records.fields import Quantity, quantities
from airtune.methods.spec import Lazy, MethodSpec, OfflineStage, ProblemSpec
from airtune.suggest import unknown_name

GROUP = "airtune.methods"
SHIPPED = (
    Lazy("airtune.methods.fedlora.spec:FEDLORA"),
    Lazy("airtune.methods.jcpba.spec:JCPBA"),
    Lazy("airtune.methods.soft_tsfa.spec:SOFT_TSFA"),
    Lazy("airtune.methods.hetlora.spec:HETLORA"),
    Lazy("airtune.methods.ffa_lora.spec:FFA_LORA"),
    Lazy("airtune.methods.lora_fair.spec:LORA_FAIR"),
    Lazy("airtune.methods.flora.spec:FLORA"),
    Lazy("airtune.methods.fedex_lora.spec:FEDEX_LORA"),
    Lazy("airtune.methods.ferret.spec:FERRET"),
    Lazy("airtune.methods.fedkseed.spec:FEDKSEED"),
    Lazy("airtune.methods.sampled_lora.spec:SAMPLED_LORA"),
    Lazy("airtune.methods.centralised.spec:CENTRALISED"),
    Lazy("airtune.methods.sflllm.spec:SFLLLM"),
    Lazy("airtune.methods.fedsllm.spec:FEDSLLM"),
    Lazy("airtune.methods.hsfl.spec:HSFL"),
    Lazy("airtune.methods.epsl.spec:EPSL"),
    Lazy("airtune.methods.latency_energy.spec:LATENCY_ENERGY"),
    Lazy("airtune.methods.client_selection.spec:CLIENT_SELECTION"),
    Lazy("airtune.methods.fedsl.spec:FEDSL"),
)


@cache
def shipped_methods() -> dict[str, MethodSpec]:
    """The methods of airtune itself, by name."""
    specs: list[MethodSpec] = [place.load() for place in SHIPPED]
    return {spec.name: spec for spec in specs}


@cache
def installed_methods() -> dict[str, EntryPoint]:
    """The methods of installed packages by name, not yet imported.

    Raises InputError for a name that is registered twice, since either could be meant.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        other = found.setdefault(entry.name, entry).value
        if entry.name in shipped_methods():
            other = "airtune itself"
        if other != entry.value:
            raise InputError(
                "method",
                entry.name,
                "the name of one method",
                f"{entry.value} and {other} both have it: uninstall one, or rename its method",
            )
    return found


def method_names() -> list[str]:
    """The methods that a run can name."""
    shipped = shipped_methods().values()
    return [*(spec.name for spec in shipped if spec.compose is not None), *installed_methods()]


def find_method(name: str) -> MethodSpec:
    """The method of this name.

    Raises InputError for a name that is not registered, and for a package's method that cannot be
    imported or is no `MethodSpec`.
    """
    if name in shipped_methods():
        return shipped_methods()[name]
    installed = installed_methods()
    if name not in installed:
        raise unknown_name("method", name, method_names())
    return _load(installed[name])


@cache
def _load(entry: EntryPoint) -> MethodSpec:
    with foreign_code(f"The method {entry.name} ({entry.value}), while it was imported,"):
        spec = entry.load()
    if not isinstance(spec, MethodSpec) or spec.name != entry.name:
        raise InputError(
            "method",
            entry.name,
            f"a MethodSpec of this name at {entry.value}",
            "mend the package's entry point",
        )
    return spec


def specs_of(names: Iterable[str]) -> Iterator[MethodSpec]:
    """The shipped methods, and those of installed packages that are named."""
    wanted = set(names)
    yield from shipped_methods().values()
    for name in installed_methods():
        if name in wanted:
            yield find_method(name)


def recorded_numbers() -> dict[str, Quantity]:
    """What the methods record of their own, by key; of installed packages, those in use."""
    used = [n for n, entry in installed_methods().items() if entry.module in sys.modules]
    kinds = [kind for spec in specs_of(used) for kind in spec.recorded.values()]
    return {key: what for kind in kinds for key, what in quantities(kind).items()}


def unfederated() -> list[str]:
    """Shipped methods in which one client holds all data."""
    return [spec.name for spec in shipped_methods().values() if not spec.is_federated]


def problem_specs() -> dict[str, ProblemSpec]:
    """The shipped planning problems by name; one of an installed package is found by its method."""
    problems = [spec.problem for spec in shipped_methods().values() if spec.problem is not None]
    return {problem.name: problem for problem in problems}


def find_problem(name: str) -> ProblemSpec | None:
    """The planning problem of this name, also of an installed package whose method has it."""
    known = problem_specs().get(name)
    if known is None and name in installed_methods():
        return find_method(name).problem
    return known


def offline_stage(name: str) -> tuple[MethodSpec, OfflineStage]:
    """A shipped method's offline stage by its name, and the method."""
    return next(
        (spec, stage)
        for spec in shipped_methods().values()
        for stage in spec.offline
        if stage.name == name
    )
