"""What is compared: one experiment, arms that change only how it learns, seeds and a target.

A comparison file:

    experiment: {rounds: 20, cell: {radius_m: 150}}   # or the name of an experiment file
    seeds: 3
    target_loss: 0.6
    arms:
      equal: {method: METHOD, METHOD: {bandwidth: equal}}
      other: {method: OTHER}
      sparse: {method: METHOD, codec: top-k, seeds: 1}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from airtune.config.experiment import FORMAT, ExperimentConfig, with_settings
from airtune.data.memory import named_in_data
from airtune.errors import AirtuneError, InputError
from airtune.experiment.reading import check_filled, sections_of
from airtune.experiment.unused import unused_error, unused_keys
from airtune.files import file_value, read_yaml_mapping, take_format
from airtune.methods.file_kinds import (
    COMPARISON,
    EXPERIMENT,
    PROBLEM,
    kind_of,
    refuse_other_kind,
)
from airtune.methods.registry import find_method, method_names
from airtune.report.sources import arm_folder
from airtune.section import Section, Word, Words, check
from airtune.wireless.unused import refuse_unused_cell_keys

SHARED = (
    "model",
    "dtype",
    "compute_dtype",
    "data",
    "clients",
    "cohort",
    "cell",
    "charge_as",
    "seed",
)
"""Keys that an arm may not change: arms that differ in them cannot be compared."""
FIELD = "EXPERIMENT.yaml"


Seed = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class ComparisonFile(Section):
    """A comparison file; its experiment and arms are read when they lie over each other."""

    from_texts = False

    experiment: Annotated[Any, Words("a mapping, or the name of an experiment file")] = Field(
        None, description="what all arms share: keys of an experiment, or the name of its file"
    )
    seeds: Annotated[
        Annotated[int, Field(ge=1)] | Annotated[list[Seed], Field(min_length=1)],
        Words("a number of seeds of at least 1, or a list of them"),
    ] = Field(1, description="how many, counted from the experiment's own, or a list of them")
    target_loss: float | None = Field(
        None, gt=0, description="the test loss to reach [nat]; null: what the first arm reaches"
    )
    target_share: Annotated[
        Share | Annotated[list[Share], Field(min_length=1)] | None,
        Words("a number above 0 and of at most 1, or a list of them"),
    ] = Field(
        None,
        description="in place of target_loss: how much of the first arm's descent to reach; "
        "1: all; with several, tables of the costs to each",
    )
    arms: dict[Word, Annotated[dict[str, Any] | None, Words("a mapping")]] = Field(
        description="name -> what this arm changes in the experiment; `seeds`: its own number"
    )


@dataclass(frozen=True)
class Arm:
    """One arm: its name and the checked experiment of each of its seeds."""

    name: str
    configs: Mapping[int, ExperimentConfig]

    @property
    def folder(self) -> str:
        """Its name as a folder's name."""
        return arm_folder(self.name)


@dataclass(frozen=True)
class Comparison:
    """Arms in order; ratios refer to the first.

    `target_loss` None: `target_share` of the first arm's descent, from the loss before training to
    the lowest that all of its runs reached; it is the greatest of `target_shares`.
    """

    arms: tuple[Arm, ...]
    target_loss: float | None
    target_shares: tuple[float, ...] = (1.0,)

    @property
    def target_share(self) -> float:
        """The share of the target that the table and the sentences are about."""
        return max(self.target_shares)

    @property
    def runs(self) -> list[tuple[Arm, int]]:
        """Every run, seed by seed, so that an interrupted comparison has all arms."""
        seeds = dict.fromkeys(seed for arm in self.arms for seed in arm.configs)
        return [(arm, seed) for seed in seeds for arm in self.arms if seed in arm.configs]


def read_comparison(
    path: Mapping[str, Any] | Path | str | None = None,
    methods: Sequence[str] = (),
    settings: Sequence[str] = (),
    seeds: int | None = None,
    target_loss: float | None = None,
    target_share: float | Sequence[float] | None = None,
) -> Comparison:
    """A comparison file, or an experiment file with `methods`; or the content of one.

    `methods` are names of arms in the file, method names, or `name:key=value+key=value`; `settings`
    change every arm; `seeds` and `target_loss` or `target_share` replace the file's. Raises
    InputError.
    """
    if isinstance(path, Mapping):
        # Rows in memory may stand under `data`, at the top or under `experiment`.
        content, path = {str(key): _value(key, value) for key, value in path.items()}, None
        content = named_in_data(content)
    else:
        content = read_yaml_mapping(path, FIELD) if path else {}
    if "arms" not in content and kind_of(content) == PROBLEM:
        refuse_other_kind(content, path or "experiment", COMPARISON)
    if "arms" not in content:
        content = {"experiment": content, "arms": {}}
        if not methods:
            raise InputError(
                "--methods",
                "missing",
                "the arms to compare",
                f"give --methods {','.join(method_names()[:2])}, or a comparison file with a "
                "section 'arms'",
            )
    if target_loss is not None or target_share is not None:
        content = {**content, "target_loss": target_loss, "target_share": target_share}
    file = check(ComparisonFile, content)
    if file.target_loss is not None and file.target_share is not None:
        raise InputError(
            "target_share", file.target_share, "left out beside target_loss", "give one of the two"
        )
    shared = _shared(file.experiment or {}, Path(path or "").parent)
    chosen = _chosen(file.arms, methods)
    wanted = _seeds(file.seeds, shared.get("seed", 0), seeds)
    made = [_arm(name, options, shared, settings, wanted) for name, options in chosen.items()]
    _refuse_same_folders(made)
    _refuse_unused(made, chosen)
    return Comparison(tuple(made), file.target_loss, _shares(file.target_share))


def _shares(given: float | Sequence[float] | None) -> tuple[float, ...]:
    """Each share once, rising."""
    shares = given if isinstance(given, Sequence) else (given or 1.0,)
    return tuple(sorted(set(shares)))


def _value(key: object, value: Any) -> Any:
    """Plain values of a mapping from Python; rows of `data` stay as they are."""
    if key == "experiment" and isinstance(value, Mapping):
        return named_in_data({name: _value(name, inner) for name, inner in value.items()})
    return value if key == "data" else file_value(value)


def _shared(experiment: object, folder: Path) -> dict[str, Any]:
    """The common experiment: keys in place, or a file named from the comparison's own folder."""
    if isinstance(experiment, str):
        path = folder / experiment
        values = read_yaml_mapping(path, "experiment")
        refuse_other_kind(values, path, EXPERIMENT)
    else:
        if not isinstance(experiment, Mapping):
            raise InputError("experiment", experiment, "a mapping, or the name of a file")
        path, values = Path("experiment"), {str(key): value for key, value in experiment.items()}
    # The experiment of a run folder names its format.
    take_format(values, str(path), FORMAT)
    return values


def _chosen(
    arms: Mapping[str, dict[str, Any] | None], methods: Sequence[str]
) -> dict[str, dict[str, Any]]:
    if not methods:
        chosen = {name: arm or {} for name, arm in arms.items()}
    else:
        chosen = {name: arms[name] or {} if name in arms else method_keys(name) for name in methods}
        if len(chosen) < len(methods):
            raise InputError("--methods", ",".join(methods), "a list without repetition")
    if not chosen:
        raise InputError("arms", "empty", "at least one arm")
    return chosen


def method_keys(text: str) -> dict[str, Any]:
    """`METHOD:key=value+key=value` as experiment keys; bare keys are the method's own."""
    name, separator, rest = text.partition(":")
    options: dict[str, Any] = {"method": name}
    section = sections_of([name]).get(name)
    own = section.model_fields if section else {}
    settings = []
    for part in rest.split("+") if separator else ():
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise InputError("--methods", text, "a name, or name:key=value+key=value")
        settings.append(f"{f'{name}.{key}' if key in own else key}={value}")
    return with_settings(options, settings)


def _seeds(value: int | list[int], first: object, asked: int | None) -> list[int]:
    """A number of seeds, counted from the experiment's own, or a list of them."""
    if asked is not None:
        if asked < 1:
            raise InputError("seeds", asked, "a whole number of at least 1")
        value = value[:asked] if isinstance(value, list) and asked <= len(value) else asked
    if isinstance(value, list):
        return list(dict.fromkeys(value))
    start = first if type(first) is int else 0
    return list(range(start, start + value))


def _arm(
    name: str,
    options: Mapping[str, Any],
    shared: Mapping[str, Any],
    settings: Sequence[str],
    seeds: Sequence[int],
) -> Arm:
    changes = {key: value for key, value in options.items() if key != "seeds"}
    for key in changes:
        if key in SHARED:
            raise InputError(
                f"arms.{name}.{key}",
                str(changes[key]),
                "the same for every arm",
                "put it under 'experiment', or give --set",
            )
    count = options.get("seeds", len(seeds))
    if type(count) is not int or count < 1:
        raise InputError(f"arms.{name}.seeds", repr(count), "a whole number of at least 1")
    try:
        merged = with_settings(laid_over(shared, changes), settings)
        configs = {seed: check_filled({**merged, "seed": seed}) for seed in seeds[:count]}
        find_method(next(iter(configs.values())).method)  # refuses an unknown one
    except AirtuneError as error:
        raise error.within(f"arm {name}") from None
    return Arm(name, configs)


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, section by section; a part (`codec`) is replaced as a whole."""
    result = dict(below)
    for key, value in above.items():
        under = below.get(key)
        nested = isinstance(value, Mapping) and isinstance(under, Mapping) and "use" not in value
        result[key] = laid_over(under, value) if nested else value  # type: ignore[arg-type]
    return result


def _refuse_unused(arms: Sequence[Arm], options: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a key of an arm without effect there, and a shared one without effect in any arm."""
    first = {arm.name: next(iter(arm.configs.values())) for arm in arms}
    unused = {name: dict(unused_keys(config)) for name, config in first.items()}
    everywhere = set.intersection(*(set(keys) for keys in unused.values()))
    for name, keys in unused.items():
        for key, needed in keys.items():
            if key in everywhere or is_given(options[name], key):
                error = unused_error(first[name], key, needed)
                raise error if key in everywhere else error.within(f"arm {name}")
    for config in first.values():
        refuse_unused_cell_keys(config.cell)


def is_given(options: Any, key: str) -> bool:
    """Whether an arm's own mapping has this key, dots being its sections."""
    for part in key.split("."):
        if not isinstance(options, Mapping) or part not in options:
            return False
        options = options[part]
    return True


def _refuse_same_folders(arms: Sequence[Arm]) -> None:
    taken: dict[str, str] = {}
    for arm in arms:
        if arm.folder in taken or not arm.folder.strip(".-"):
            raise InputError(
                "arms",
                f"{taken.get(arm.folder, arm.name)} and {arm.name}",
                "names that make different folders",
            )
        taken[arm.folder] = arm.name


def parse_methods(text: str | None) -> list[str]:
    """`a,b,c` as a list."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def parse_shares(text: str | None) -> list[float] | None:
    """`0.85,0.95,1` as numbers. Raises InputError."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        allowed = "a number above 0 and of at most 1, or several with commas"
        raise InputError("--target-share", text, allowed, "such as 0.85,0.95,1") from None
