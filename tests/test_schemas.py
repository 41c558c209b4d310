"""`airtune schema`: every file that airtune reads fits its schema, and what it refuses does not."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from airtune.comparison.definition import ComparisonFile, read_comparison
from airtune.config.experiment import ExperimentConfig
from airtune.config.text import commented, resolved_yaml
from airtune.cost.device import DeviceSection, load_devices
from airtune.errors import InputError
from airtune.experiment.reading import checked, default_experiment, sections_of
from airtune.files import file_value, parse_yaml, read_yaml_mapping
from airtune.methods.parts import known_parts
from airtune.methods.plan import from_cell, load_problem_module, method_of, names_a_model
from airtune.methods.registry import problem_specs
from airtune.planning.table import TableOf
from airtune.ranges import Numbers, Range
from airtune.schemas import SCHEMAS
from airtune.section import Spot, check, spots
from tests.cli import conftest
from tests.planning.cell_cases import CASES

Command = Callable[..., tuple[int, str, str]]
command = conftest.airtune
ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
DEVICES = ROOT / "src/airtune/cost/devices.yaml"
FIRST_FORMAT = ROOT / "tests/experiment/runs/first_format/experiment.yaml"


@cache
def validator(kind: str) -> Draft202012Validator:
    schema = json.loads(json.dumps(SCHEMAS[kind]()))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def fits(kind: str, content: Any) -> bool:
    return not wrong(kind, content)


def wrong(kind: str, content: Any) -> list[str]:
    # JSON's keys are texts.
    plain = json.loads(json.dumps(file_value(content)))
    return [f"{error.json_path}: {error.message}" for error in validator(kind).iter_errors(plain)]


SHIPPED: list[tuple[str, Any]] = [
    *[("problem", read_yaml_mapping(path, "problem")) for path in EXAMPLES],
    *[("problem", case) for case in CASES.values()],
    *[
        ("comparison" if path.name.startswith("compare") else "experiment", content)
        for path in EXPERIMENTS
        for content in (read_yaml_mapping(path, "file"),)
    ],
    ("experiment", read_yaml_mapping(FIRST_FORMAT, "file")),
    ("experiment", parse_yaml(commented(default_experiment()), "init")),
    ("experiment", parse_yaml(resolved_yaml(default_experiment()), "run")),
    ("experiment", {"codec": {"use": "int8", "block": 64}, "tuner": "my.module:Tuner"}),
    ("experiment", {"rounds": "${ROUNDS}", "cell": {"path_loss": "${LOSS}"}, "cohort": {}}),
    ("comparison", {"arms": {"a": None, "b": {"codec": "svd", "seeds": 1}}, "seeds": [1, 2]}),
    ("device", read_yaml_mapping(DEVICES, "devices")),
]


@pytest.mark.parametrize(("kind", "content"), SHIPPED)
def test_what_airtune_reads_fits_its_schema(kind: str, content: Any) -> None:
    assert wrong(kind, content) == []


@pytest.mark.parametrize("name", CASES)
def test_derived_numbers_fit_the_schema(name: str) -> None:
    numbers = from_cell(CASES[name]).numbers
    assert wrong("problem", numbers) == []
    assert not names_a_model(numbers)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("experiment", {"ronds": 3}),
        ("experiment", {"rounds": "many"}),
        ("experiment", {"cell": {"bandwidht_hz": 1e6}}),
        ("experiment", {"cell": {"bandwidth_hz": None}}),
        ("experiment", {"jcpba": {"solver": "fast"}}),
        ("experiment", {"jcpba": {"solvr": "bcd"}}),
        ("experiment", {"codec": {"use": "int8", "blocks": 4}}),
        ("experiment", {"codec": "int9"}),
        ("experiment", {"codec": {"block": 4}}),
        ("experiment", {"clients": [{"name": "a"}]}),
        ("experiment", {"format": 99}),
        ("problem", {}),
        ("problem", {"method": "jcbpa"}),
        ("problem", {**CASES["jcpba"], "tokens": None}),
        ("problem", {**CASES["jcpba"], "rounds": {4: 3}}),
        ("problem", {**CASES["fedsllm"], "clients": {"examples": 3}}),
        ("problem", {**CASES["sflllm"], "rounds": {4: -1}}),
        ("problem", {**CASES["sflllm"], "adapter": {"kind": "full"}}),
        ("comparison", {"seeds": 2}),
        ("comparison", {"arms": {"a": {"cell": {}}}}),
        ("comparison", {"arms": {"a": {"rounds": 0}}}),
        ("comparison", {"arms": {}, "experiment": {"rounds": 0}}),
        ("device", {"mine": {"kind": "toaster"}}),
        ("device", {"mine": 3}),
    ],
)
def test_what_airtune_refuses_does_not_fit(kind: str, content: Any) -> None:
    assert not fits(kind, content)


Place = tuple[str | int, ...]


def places(section: type[BaseModel], above: Place = ()) -> Iterator[tuple[Place, Spot]]:
    """Every key of a section and of those in it; of a list, in its first entry."""
    for name, spot in spots(section).items():
        here = (*above, name)
        yield here, spot
        table = next((part for part in spot.metadata if isinstance(part, TableOf)), None)
        inner = table.client if table else spot.section
        entry = spot.below(0) if spot.section is None else None
        if entry is not None and entry.section is not None:
            yield from places(entry.section, (*here, 0))
        elif inner is not None:
            yield from places(inner, (*here, 0) if table else here)


def bad_values(spot: Spot) -> Iterator[Any]:
    """What no section allows at a place of this kind; nothing where it may hold anything."""
    several = next((part for part in spot.metadata if isinstance(part, Numbers)), None)
    limits = several.each if several else spot.range
    if limits is not None:
        yield True
        yield from outside(limits)
    elif spot.choices:
        yield "no such choice"
        yield 7
    elif spot.section is not None:
        yield "text"


def outside(limits: Range) -> Iterator[float]:
    step = 1 if limits.whole else 1e-3
    for low in (limits.least, limits.above):
        if low is not None:
            yield low - step
    for high in (limits.most, limits.below):
        if high is not None:
            yield high + step
    if limits.above is not None:
        yield limits.above
    if limits.below is not None:
        yield limits.below
    if limits.largest < 1e300 and limits.infinity <= 0:
        yield limits.largest * 2


def put(content: Any, place: Place, value: Any) -> Any:
    """A copy with a value at a place, sections and lists made where there are none."""
    first, *rest = place
    if isinstance(first, int):
        entries = copy.deepcopy(content) if isinstance(content, list) and content else [{}]
        entries[first] = put(entries[first], tuple(rest), value) if rest else value
        return entries
    below = dict(content) if isinstance(content, Mapping) else {}
    below[first] = put(below.get(first), tuple(rest), value) if rest else value
    return below


def read_problem(content: Mapping[str, Any]) -> None:
    if names_a_model(content):
        from_cell(content)
    else:
        load_problem_module(method_of(content)[0]).read(content)


def read_devices(content: Mapping[str, Any]) -> None:
    check(DeviceSection, content["mine"], "{} of mine")


PROFILE = load_devices()["pixel-9"].mapping()
FILES: dict[str, tuple[str, type[BaseModel], dict[str, Any], Callable[[Any], object], Place]] = {
    "experiment": ("experiment", ExperimentConfig, {}, checked, ()),
    "device": ("device", DeviceSection, {"mine": PROFILE}, read_devices, ("mine",)),
    "comparison": (
        "comparison",
        ComparisonFile,
        {"arms": {"a": None}},
        lambda content: check(ComparisonFile, content),
        (),
    ),
    **{
        f"experiment-{name}": ("experiment", section, {}, checked, (name,))
        for name, section in sections_of().items()
    },
}
for _name, _problem in problem_specs().items():
    _numbers = read_yaml_mapping(ROOT / "examples" / f"{_name}.yaml", "problem")
    FILES[_name] = ("problem", _problem.load().FILE, _numbers, read_problem, ())
    if _problem.cell_file is not None:
        _cell = _problem.cell_file.load()
        FILES[f"{_name}-cell"] = ("problem", _cell, CASES[_name], read_problem, ())


@pytest.mark.parametrize("name", FILES)
def test_schema_and_reader_refuse_the_same_values(name: str) -> None:
    kind, section, base, read, above = FILES[name]
    read(base)
    assert wrong(kind, base) == []
    tried = 0
    for place, spot in places(section, above):
        for value in bad_values(spot):
            content = put(base, place, value)
            assert not fits(kind, content), f"the schema takes {value!r} at {place}"
            with pytest.raises(InputError):
                read(content)
                pytest.fail(f"the reader takes {value!r} at {place}")
            tried += 1
    assert tried >= 3, "no key was tried"


@pytest.mark.parametrize("name", FILES)
def test_every_key_says_what_it_is(name: str) -> None:
    _, section, *_ = FILES[name]
    for place, _ in places(section):
        if place[-1] != "methods":
            field = described(section, place)
            assert len(field) > 2, place


def test_every_option_of_a_part_says_what_it_is() -> None:
    options = {part.options for parts in known_parts().values() for part in parts.values()}
    for section in options:
        for key, field in section.model_fields.items():
            assert len(field.description or "") > 2, (section, key)


def described(section: type[BaseModel], place: Place) -> str:
    *outer, last = place
    kind: Any = section
    for key in outer:
        if isinstance(key, str):
            spot = spots(kind)[key]
            table = next((part for part in spot.metadata if isinstance(part, TableOf)), None)
            entry = spot.below(0)
            inner = table.client if table else spot.section
            kind = inner or (entry.section if entry else None)
    return kind.model_fields[last].description or ""


def test_the_comparison_of_the_schema_is_read(tmp_path: Path) -> None:
    """An arm's keys are those that the reader takes."""
    arm = SCHEMAS["comparison"]()["$defs"]["Arm"]["properties"]
    path = tmp_path / "comparison.yaml"
    for key in sorted(set(SCHEMAS["experiment"]()["properties"]) - set(arm) - {"format"}):
        path.write_text(json.dumps({"arms": {"a": {key: 3}}}))
        with pytest.raises(InputError, match="the same for every arm"):
            read_comparison(path)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_command_prints_it(kind: str, command: Command) -> None:
    code, out, _ = command("schema", kind)
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(SCHEMAS[kind]()))


def test_an_unknown_kind(command: Command) -> None:
    code, _, said = command("schema", "experimnt")
    assert code == 2
    assert said.startswith("airtune: KIND is experimnt, but it must be one of experiment, problem")
    assert "did you mean 'experiment'?" in said
