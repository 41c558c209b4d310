"""JSON Schemas (draft 2020-12) of the files that a user writes, made from their sections.

An editor checks and completes a file by its schema; `airtune` itself reads the same sections. What
keys cannot mean together is left to the reader.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema

from airtune.comparison.definition import SHARED, ComparisonFile
from airtune.config.experiment import FORMAT, PART_KINDS, ExperimentConfig
from airtune.cost.device import DeviceSection
from airtune.experiment.reading import sections_of
from airtune.methods.parts import known_parts
from airtune.methods.registry import find_method, installed_methods, problem_specs
from airtune.methods.spec import ProblemSpec
from airtune.planning.sections import CELL_KEYS, ProblemSection, decibel_twin
from airtune.section import Section, spots, usual_ranges
from airtune.trackers.shipped import TRACKERS

DIALECT = GenerateJsonSchema.schema_dialect
_TEMPLATE = {"type": "string", "pattern": r"\$\{\w+\}"}
"""A value that comes from the environment when the file is read."""
_NULL = {"type": "null"}
_REFERENCE = "#/$defs/{model}"


class _Schemas(GenerateJsonSchema):
    """Sections as JSON Schema, with what the reader also takes for a value."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        section, made = schema["cls"], super().model_schema(schema)
        made.pop("title", None)
        if issubclass(section, Section):
            required = made.get("required", [])
            for name, usual in usual_ranges(section):
                shown = made["properties"][name]
                shown["description"] += f" ({usual.words})"
            for name, spot in spots(section).items():
                shown = made["properties"][name]
                for branch in shown.get("anyOf", [shown]) if spot.range else ():
                    if spot.range and branch.get("type") in ("number", "integer"):
                        # pydantic leaves out some limits of optional numbers.
                        branch |= spot.range.json_schema() | {"type": branch["type"]}
                if section.null_is_absent and name not in required:
                    made["properties"][name] = _also(shown, _NULL)
                elif section.from_texts and _is_scalar(shown):
                    made["properties"][name] = _also(shown, _TEMPLATE)
        if issubclass(section, ProblemSection):
            made |= _levels(section)
        return made


def _also(shown: JsonSchemaValue, other: JsonSchemaValue) -> JsonSchemaValue:
    """The same property, which may be something else, too."""
    outside: JsonSchemaValue = {
        key: shown[key] for key in ("description", "default") if key in shown
    }
    inside = {key: value for key, value in shown.items() if key not in outside}
    branches = inside["anyOf"] if list(inside) == ["anyOf"] else [inside]
    return {"anyOf": branches if other in branches else [*branches, other], **outside}


def _is_scalar(shown: JsonSchemaValue) -> bool:
    """Whether a number, a truth or one of some words may stand here, but not any text."""
    branches = shown.get("anyOf", [shown])
    if any(one.get("type") == "string" and "enum" not in one for one in branches):
        return False
    return any(
        one.get("type") in ("number", "integer", "boolean") or "enum" in one or "const" in one
        for one in branches
    )


def _levels(section: type[ProblemSection]) -> JsonSchemaValue:
    """Of a linear key and its decibel twin, one is needed, or one at most is given."""
    rules: list[JsonSchemaValue] = []
    for key in section.levels:
        given = [{"required": [name]} for name in (key, decibel_twin(key)[0])]
        both = {"required": [key, decibel_twin(key)[0]]}
        rules.append({"oneOf": given} if key in section.needed_levels else {"not": both})
    return {"allOf": rules} if rules else {}


def _of_models(models: Iterable[type[BaseModel]]) -> tuple[list[JsonSchemaValue], JsonSchemaValue]:
    """References to these models, and the definitions behind them."""
    kinds = list(models)
    for kind in kinds:
        kind.model_rebuild()
    generator = _Schemas(ref_template=_REFERENCE)
    inputs: Any = [(kind, "validation", kind.__pydantic_core_schema__) for kind in kinds]
    made, definitions = generator.generate_definitions(inputs)
    found = {str(name): definitions[name] for name in definitions}
    return [made[kind, "validation"] for kind in kinds], found


def _file(title: str, body: JsonSchemaValue, definitions: JsonSchemaValue) -> JsonSchemaValue:
    used = sorted(_used(body, definitions, set()))
    defined = {name: definitions[name] for name in used}
    return {"$schema": DIALECT, "title": title, **body, "$defs": defined}


def _used(shown: Any, definitions: JsonSchemaValue, found: set[str]) -> set[str]:
    """The definitions that a schema refers to, also through one another."""
    for part in shown.values() if isinstance(shown, dict) else shown:
        if isinstance(part, dict | list):
            _used(part, definitions, found)
        elif isinstance(part, str) and part.startswith("#/$defs/"):
            name = part.rpartition("/")[2]
            if name not in found:
                found.add(name)
                _used(definitions[name], definitions, found)
    return found


def _experiment() -> tuple[JsonSchemaValue, JsonSchemaValue]:
    """The keys of an experiment with the section of every registered method; its definitions."""
    names = list(installed_methods())
    own: Any = {
        name: (section, Field(default_factory=section, description=f"options of {name}"))
        for name, section in sections_of(names).items()
    }
    kinds = known_parts(names)
    options = [part.options for parts in kinds.values() for part in parts.values()]
    options += [tracker.options for tracker in TRACKERS.values()]
    model = create_model("Experiment", __base__=ExperimentConfig, **own)
    [reference, *parts], definitions = _of_models([model, *dict.fromkeys(options)])
    body = definitions.pop(reference["$ref"].rpartition("/")[2])
    made = dict(zip(dict.fromkeys(options), parts, strict=True))
    keys = body["properties"]
    del keys["methods"]
    for kind in PART_KINDS:
        choices = {name: made[part.options] for name, part in kinds[kind].items()}
        keys[kind] = _part(choices, definitions) | {"description": keys[kind]["description"]}
    trackers = {name: made[tracker.options] for name, tracker in TRACKERS.items()}
    one = _part(trackers, definitions)
    about = {"description": keys["report_to"]["description"]}
    keys["report_to"] = {"anyOf": [one, {"type": "array", "items": one}]} | about
    keys["format"] = {
        "type": "integer",
        "minimum": 1,
        "maximum": FORMAT,
        "description": "of the file; those of run folders name it",
    }
    return body, definitions


def _part(choices: Mapping[str, JsonSchemaValue], definitions: JsonSchemaValue) -> JsonSchemaValue:
    """A part by its name or import path, or a mapping of `use` and its options."""
    by_path = {"type": "string", "pattern": ":"}
    rules: list[JsonSchemaValue] = []
    for name, reference in choices.items():
        options = definitions[reference["$ref"].rpartition("/")[2]]
        keys = {"use": {"const": name}, **options.get("properties", {})}
        then = {"properties": keys, "additionalProperties": False}
        rules.append({"if": {"properties": {"use": {"const": name}}}, "then": then})
    mapping = {
        "type": "object",
        "properties": {"use": {"anyOf": [{"enum": list(choices)}, by_path]}},
        "required": ["use"],
        "allOf": rules,
    }
    return {"anyOf": [{"enum": list(choices)}, by_path, mapping, _NULL, _TEMPLATE]}


def experiment_schema() -> JsonSchemaValue:
    """Of an experiment file, with the section of every registered method and their parts."""
    body, definitions = _experiment()
    return _file("airtune experiment", body, definitions)


def comparison_schema() -> JsonSchemaValue:
    """Of a comparison file; an arm has the keys of an experiment that arms may change."""
    experiment, definitions = _experiment()
    [reference], more = _of_models([ComparisonFile])
    body = more.pop(reference["$ref"].rpartition("/")[2])
    changed = {key: shown for key, shown in experiment["properties"].items() if key not in SHARED}
    changed["seeds"] = {
        "type": "integer",
        "minimum": 1,
        "description": "how many of the seeds this arm runs; left out: all",
    }
    arm = {"type": "object", "properties": changed, "additionalProperties": False}
    keys = body["properties"]
    shared = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Experiment"}, _NULL]}
    keys["experiment"] = shared | {"description": keys["experiment"]["description"]}
    keys["arms"]["additionalProperties"] = {"anyOf": [{"$ref": "#/$defs/Arm"}, _NULL]}
    own = {"Experiment": experiment, "Arm": arm}
    return _file("airtune comparison", body, {**definitions, **more, **own})


def device_schema() -> JsonSchemaValue:
    """Of a file of device profiles, by name."""
    [reference], definitions = _of_models([DeviceSection])
    body = {"type": "object", "additionalProperties": reference}
    return _file("airtune device profiles", body, definitions)


def problem_schema() -> JsonSchemaValue:
    """Of a planning problem: the section of its method, in explicit numbers or from a cell."""
    problems = dict(problem_specs())
    for name in installed_methods():
        problem = find_method(name).problem
        if problem is not None:
            problems[problem.name] = problem
    files = {name: _files_of(problem) for name, problem in problems.items()}
    kinds = dict.fromkeys(kind for pair in files.values() for kind in pair if kind is not None)
    references, definitions = _of_models(kinds)
    made = dict(zip(kinds, references, strict=True))
    derived = {"anyOf": [{"required": [key]} for key in CELL_KEYS]}
    rules = []
    for name, (numbers, cell) in files.items():
        then = made.get(numbers, {})
        if cell is not None:
            then = {"if": derived, "then": made[cell], "else": then}
        named = {"properties": {"method": {"const": name}}}
        rules.append({"if": named, "then": then})
    method = {"enum": list(files), "description": "the planner"}
    body = {
        "type": "object",
        "properties": {"method": method},
        "required": ["method"],
        "allOf": rules,
    }
    return _file("airtune planning problem", body, definitions)


def _files_of(problem: ProblemSpec) -> tuple[Any, Any]:
    """The sections of a problem's file; an installed package may have none."""
    cell = None if problem.cell_file is None else problem.cell_file.load()
    return getattr(problem.load(), "FILE", None), cell


SCHEMAS = {
    "experiment": experiment_schema,
    "problem": problem_schema,
    "device": device_schema,
    "comparison": comparison_schema,
}
"""The schema of each kind of file."""
