"""What is swept: an experiment or a planning problem, its points and seeds; and the file of it.

`sweep.yaml` in the folder of a sweep holds all of it, so that `airtune resume FOLDER` goes on
without the command, and a folder of another sweep is refused with what differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from airtune.config.experiment import FORMAT as EXPERIMENT_FORMAT
from airtune.config.experiment import PART_KEYS, ExperimentConfig, with_settings
from airtune.config.text import flat
from airtune.errors import SECRET, InputError
from airtune.files import file_value, read_yaml_mapping, take_format, write_text_atomic
from airtune.jobs.job import FREE
from airtune.methods.file_kinds import (
    COMPARISON,
    EXPERIMENT,
    PROBLEM,
    kind_of,
    refuse_other_kind,
    refuse_run_folder,
)
from airtune.methods.registry import problem_specs, shipped_methods
from airtune.sweeping.axes import Axes, Point, show

FORMAT = 1
FILE = "sweep.yaml"
MOST_NAMED = 5
"""Differences that a message names."""
FIELD = "EXPERIMENT.yaml"


@dataclass(frozen=True)
class Sweep:
    """A sweep: `base` are the keys that all points share, `kind` what they are keys of.

    `seeds` is how many, counted from the experiment's own; `solver` is that of a problem.
    """

    kind: str
    base: Mapping[str, Any]
    axes: Axes
    seeds: int = 1
    solver: str | None = None
    source: str = field(default="", compare=False)

    @property
    def points(self) -> list[Point]:
        """Every point in order."""
        return self.axes.points

    @property
    def content(self) -> dict[str, Any]:
        """What `sweep.yaml` has."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "source": self.source,
            "seeds": self.seeds,
            "solver": self.solver,
            "grid": {key: list(values) for key, values in self.axes.grid.items()},
            "list": [dict(row) for row in self.axes.rows],
            "base": dict(self.base),
        }


def define(
    source: Path | str | Mapping[str, Any] | None,
    axes: Axes,
    settings: Sequence[str] = (),
    seeds: int | None = None,
    solver: str | None = None,
    *,
    plan: bool = False,
) -> Sweep:
    """A sweep of a file, of its content, or of the built-in experiment.

    `plan`: it is a planning problem although its keys might be those of an experiment. Raises
    InputError for a comparison, and for options that have no effect.
    """
    named = None if isinstance(source, Mapping) else source
    base = file_value(source) if isinstance(source, Mapping) else _read(named)
    place = str(named or "the experiment")
    kind = PROBLEM if plan or _is_problem(base) else EXPERIMENT
    if not isinstance(source, Mapping) or kind_of(base) == COMPARISON:
        refuse_other_kind(base, place, kind)
    if kind == PROBLEM:
        _refuse_for_plans(settings, seeds)
    elif solver is not None:
        raise InputError("--solver", solver, "left out for training runs", "it is for problems")
    if kind == EXPERIMENT:
        take_format(base, place, EXPERIMENT_FORMAT)
        base = with_settings(base, settings)
        _refuse_twice(axes.keys, settings, seeds)
    return Sweep(kind, base, axes, seeds or 1, solver, Path(named).name if named else "")


def _is_problem(values: Mapping[str, Any]) -> bool:
    """Whether the keys are those of a problem; its own keys are no keys of an experiment."""
    kind = kind_of(values)
    if kind is not None or values.get("method") not in problem_specs():
        return kind == PROBLEM
    known = {
        *ExperimentConfig.model_fields,
        *(spec.name for spec in shipped_methods().values()),
        "format",
    }
    return bool(values.keys() - known)


def _read(path: Path | str | None) -> dict[str, Any]:
    if path is None:
        return {}
    refuse_run_folder(path)
    return read_yaml_mapping(path, FIELD)


def _refuse_for_plans(settings: Sequence[str], seeds: int | None) -> None:
    for option, value in (("--set", " ".join(settings)), ("--seeds", seeds)):
        if value:
            remedy = "change the file, or sweep the key"
            raise InputError(option, value, "left out for a planning problem", remedy)


def _refuse_twice(keys: Sequence[str], settings: Sequence[str], seeds: int | None) -> None:
    """Refuse keys that two options would set, and secrets, which are written nowhere."""
    given = [setting.partition("=")[0].strip() for setting in settings]
    for key in keys:
        if key in given:
            raise InputError("--set", key, "a key that is not swept")
        if key == "seed" and seeds is not None:
            raise InputError("--seeds", seeds, "left out where seed is swept")
        part = any(key.startswith(f"{part}.") for part in PART_KEYS)
        if part and SECRET.search(key.rpartition(".")[2]):
            raise InputError(key, "swept", "no secret, since points are written into files")


def write_definition(folder: Path, sweep: Sweep) -> None:
    """Write `sweep.yaml`."""
    from ruamel.yaml import YAML

    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = StringIO()
    writer.dump(sweep.content, text)
    write_text_atomic(folder / FILE, text.getvalue())


def read_definition(folder: Path) -> Sweep:
    """The sweep of a folder. Raises InputError where there is none, or its file is damaged."""
    path = folder / FILE
    content = read_yaml_mapping(path, FILE)
    take_format(content, str(path), FORMAT)
    try:
        axes = Axes(dict(content["grid"]), [dict(row) for row in content["list"]])
        parts = content["kind"], dict(content["base"]), axes, content["seeds"], content["solver"]
        return Sweep(*parts, str(content["source"]))
    except (KeyError, TypeError, ValueError):
        remedy = "give the whole command again, with another --out"
        raise InputError(FILE, str(path), "what airtune wrote", remedy) from None


def refuse_other_sweep(folder: Path, sweep: Sweep) -> None:
    """Refuse a folder that holds another sweep, by what differs, or something else."""
    remedy = "choose another --out, or remove it"
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError("--out", str(folder), "a folder", remedy)
    if not (folder / FILE).is_file():
        # A lock may be left of a sweep that was refused.
        if any(path.name != ".lock" for path in folder.iterdir()):
            raise InputError("--out", str(folder), "a new folder, or that of a sweep", remedy)
        return
    changed = _differences(read_definition(folder), sweep)
    if changed:
        more = f"; and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
        words = f"it has another {'; '.join(changed[:MOST_NAMED])}{more}: {remedy}"
        raise InputError("--out", str(folder), "a folder of the same sweep", words)


def _differences(there: Sweep, wanted: Sweep) -> list[str]:
    """What two sweeps differ in, `key (before -> wanted)`."""
    before, now = _compared(there), _compared(wanted)
    return [
        f"{key} ({_brief(before.get(key))} -> {_brief(now.get(key))})"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]


def _compared(sweep: Sweep) -> dict[str, Any]:
    """The sweep as flat keys; those of the experiment by their own names."""
    content = sweep.content
    base = content.pop("base")
    for key in ("format", "source"):
        del content[key]
    swept = {f"{key} (swept)": values for key, values in content.pop("grid").items()}
    free = FREE if sweep.kind == EXPERIMENT else ()
    shared = {key: value for key, value in flat(base) if key not in free}
    return {**content, **swept, **shared}


def _brief(value: Any) -> str:
    text = (
        "none"
        if value is None
        else ", ".join(map(show, value))
        if isinstance(value, list)
        else show(value)
    )
    return text if len(text) <= 60 else f"{text[:57]}..."
