"""Sections of the files that a user writes: what a key is stands once, as a field of a section.

A `Section` is a pydantic model whose field states a key: type, default, range, choices, meaning.
`check` reads a mapping by it; what pydantic finds wrong becomes one InputError that names the key,
the value, what is allowed and what to do. `airtune schema` prints the same fields as JSON Schema.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, cast, get_args, get_origin

import annotated_types as limits
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from airtune.errors import InputError, UnknownKeyError
from airtune.files import file_value, refuse_half_characters
from airtune.quantities import UsualRange, read_meant, refuse_unusual
from airtune.ranges import Numbers, Range
from airtune.suggest import suggest

MAPPING = "a mapping of keys to values"
_HERE = "{here}"
"""Stands for the section's place in a remedy, which a section does not know itself."""
_REFUSED = "refused"
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
Checked = TypeVar("Checked", bound=BaseModel)


@dataclass(frozen=True)
class Words:
    """What is allowed at a key, in words for a message, where its type does not say it well."""

    words: str


class Section(BaseModel):
    """Keys are closed: a mistyped key is an error, never ignored; nor is a truth value a number.

    A field with a `UsualRange` in its annotation is refused outside of it, as a likely slip of
    units, unless `unusual_values`, a key of the same section, names it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
    null_is_absent: ClassVar[bool] = False
    """Whether `key: null` is as good as no key."""
    from_texts: ClassVar[bool] = True
    """Whether a number may be a text: `${NAME}` in an experiment is one when it is read."""
    as_given: ClassVar[tuple[str, ...]] = ()
    """Keys whose values are not made plain first: columns of arrays may be a million long."""
    meant_too: ClassVar[tuple[str, ...]] = ()
    """What `unusual_values` may name beside the fields with a usual range."""

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_other_kinds(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, bool | str) or info.field_name is None:
            return value
        spot = Spot(cls.model_fields[info.field_name].annotation)
        kinds = _members(spot.annotation)
        number = not {int, float}.isdisjoint(kinds) and type(value) not in kinds
        if number and value not in spot.choices and (isinstance(value, bool) or not cls.from_texts):
            raise PydanticCustomError("number_type", "a number")
        return value

    @model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, values: Any) -> Any:
        if not cls.null_is_absent or not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if value is not None}

    @model_validator(mode="after")
    def _refuse_slips_of_units(self) -> "Section":
        for key, usual in usual_ranges(type(self)):
            if (value := getattr(self, key)) is not None:
                refuse_slip(key, value, usual, self)
        return self


def usual_ranges(section: type[BaseModel]) -> Iterator[tuple[str, UsualRange]]:
    """The fields of a section that have a usual range."""
    for name, field in section.model_fields.items():
        for part in field.metadata:
            if isinstance(part, UsualRange):
                yield name, part


def refuse_slip(key: str, value: float, usual: UsualRange, section: Section) -> None:
    """Refuse a value outside its usual range, unless `unusual_values` of the section names it."""
    known = [name for name, _ in usual_ranges(type(section))]
    try:
        meant = read_meant(
            getattr(section, "unusual_values", None), [*known, *section.meant_too], "unusual_values"
        )
        refuse_unusual(key, value, usual, f"{_HERE}unusual_values", meant)
    except InputError as error:
        raise refused(error.field, error.value, error.allowed, error.remedy) from None


def refused(key: str, value: object, allowed: str, remedy: str = "") -> PydanticCustomError:
    """What a validator of a section raises: an InputError whose key gets the section's place."""
    return PydanticCustomError(_REFUSED, _REFUSED, {"error": (key, value, allowed, remedy)})


def _kept(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    checked = handler(value)
    # Beyond 2^53 numpy would make arrays of objects of some, and a float holds no other whole one.
    return value if type(value) is int and abs(value) <= 2**53 else checked


Real = Annotated[float, WrapValidator(_kept)]
"""A number, as it is written: 200 stays a whole number."""


def _word(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Word = Annotated[str, BeforeValidator(_word), Words("a word")]
"""A name: text, or a number that stands for one."""


def check(model: type[Checked], values: Any, place: str = "") -> Checked:
    """The section of these values; the first mistake becomes one InputError.

    Args:
        place: of the section in its file, such as `cell`; or a pattern such as `{} of NAME`.
    """
    as_given = getattr(model, "as_given", ())
    if not isinstance(values, Mapping):
        where = _label(place, []) or "the file"
        raise InputError(where, "null" if values is None else values, MAPPING)
    plain = {
        file_value(key): value if key in as_given else file_value(value)
        for key, value in values.items()
    }
    for key, value in plain.items():
        if key not in as_given:
            refuse_half_characters(value, str(key))
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        raise input_error(error, model, place, plain) from None


def unknown_key(field: str, key: str, known: Collection[str]) -> InputError:
    """A mistyped key, with the closest one there is."""
    here = f"known here: {', '.join(known)}." if known else "there are no keys here."
    return UnknownKeyError(field, suggest(key, known, here))


def input_error(
    error: ValidationError, model: type[BaseModel], place: str = "", values: Any = None
) -> InputError:
    """The one sentence for what pydantic found wrong with the values of a section."""
    details = error.errors(include_url=False)
    # An unknown key is the likelier cause when a mistyped one also leaves another missing.
    first = next((item for item in details if item["type"] in _UNKNOWN), details[0])
    spot, path = _walk(model, first["loc"])
    field, kind, given = _label(place, path), first["type"], first["input"]
    if kind in _UNKNOWN:
        key = str(first["loc"][-1])
        return unknown_key(_label(place, [*path, key]), key, list(spot.keys))
    if kind == _REFUSED:
        key, value, allowed, remedy = first["ctx"]["error"]
        here = _label(place, [*path, _HERE]).replace(_HERE, "{}")
        remedy = remedy.replace(f"{_HERE}unusual_values", here.format("unusual_values"))
        return InputError(here.format(key) if key else field, value, allowed, remedy)
    if first["loc"][-1:] == ("[key]",):
        field = f"a key of {_label(place, path[:-1])}"
        spot = _walk(model, first["loc"][:-2])[0].keys_of_mapping
    if kind == "missing":
        return InputError(field, "missing", spot.words, _missing_remedy(path, values))
    if given is None:
        # A file has null where Python has None.
        return InputError(field, "null", spot.words)
    return InputError(field, given, spot.refusal(given), spot.suggestion(given))


def _missing_remedy(path: Sequence[str | int], values: Any) -> str:
    """A key without a value (null) counts as missing where null is as good as absent."""
    try:
        for part in path:
            values = values[part]
    except (KeyError, IndexError, TypeError):
        return ""
    return "it stands there without a value"


def _label(place: str, path: Sequence[str | int]) -> str:
    """`place.key.list[2].key`, or the pattern `place` around the path."""
    pattern = place if "{}" in place or not place else f"{place}.{{}}"
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    text = text.removeprefix(".")
    if not pattern:
        return text
    return pattern.replace("{}", text) if text else place.removeprefix("{} of ")


@dataclass(frozen=True)
class Spot:
    """What a section says of one place: the annotation, and what stands beside it."""

    annotation: Any
    metadata: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "metadata", (*self.metadata, *_beside(self.annotation)))

    @property
    def keys(self) -> Collection[str]:
        """The keys of the section here."""
        section = self.section
        return list(section.model_fields) if section else []

    @property
    def keys_of_mapping(self) -> "Spot":
        """What the keys of the mapping here are."""
        kinds = (kind for kind in _members(self.annotation) if get_origin(kind) is dict)
        return Spot(next((get_args(kind)[0] for kind in kinds), Any))

    @property
    def section(self) -> type[BaseModel] | None:
        """The section here, if it is one, or may be one."""
        for member in _members(self.annotation):
            if isinstance(member, type) and issubclass(member, BaseModel):
                return member
        return None

    @property
    def range(self) -> Range | None:
        """The range of the number here, or of each number of the list."""
        found = next((part for part in self.metadata if isinstance(part, Range)), None)
        kinds = _members(self.annotation)
        if found or {int, float}.isdisjoint(kinds):
            return found
        bounds: dict[str, Any] = {}
        for part in self.metadata:
            for kind, name in _LIMITS:
                if isinstance(part, kind):
                    bounds[name] = getattr(part, _ATTRIBUTE[name])
        return Range(**bounds, whole=float not in kinds)

    @property
    def choices(self) -> tuple[Any, ...]:
        """The words that may stand here; none where any may."""
        return tuple(
            word
            for member in _members(self.annotation)
            if get_origin(member) is Literal
            for word in get_args(member)
        )

    @property
    def words(self) -> str:
        """What is allowed here."""
        own = next((part for part in self.metadata if isinstance(part, Words | Numbers)), None)
        if own is not None:
            return own.words
        found = self.range
        return found.words if found else " or ".join(dict.fromkeys(self._kinds()))

    def refusal(self, value: Any) -> str:
        """What is allowed instead of this value."""
        found = self.range
        own = any(isinstance(part, Words) for part in self.metadata)
        return found.refusal(value) if found and not own else self.words

    def suggestion(self, value: Any) -> str:
        """The word that is most like this one, as a remedy."""
        return suggest(value, map(str, self.choices)) if isinstance(value, str) else ""

    def _kinds(self) -> Iterator[str]:
        for member in _members(self.annotation):
            origin = get_origin(member) or member
            if origin is Literal:
                yield f"one of {', '.join(map(str, get_args(member)))}"
            elif origin in (list, tuple):
                long = any(isinstance(part, limits.MinLen) for part in self.metadata)
                yield "a list of at least one entry" if long else "a list"
            elif origin is dict or (isinstance(origin, type) and issubclass(origin, BaseModel)):
                yield MAPPING
            elif origin is not type(None):
                yield {str: "text", bool: "true or false"}.get(cast(Any, origin), "a value")

    def below(self, part: str | int) -> "Spot | None":
        """The place under a key or an index; None where pydantic names a branch of a union."""
        for member in _members(self.annotation):
            origin, inner = get_origin(member), get_args(member)
            if isinstance(member, type) and issubclass(member, BaseModel):
                if part in member.model_fields:
                    return spots(member)[str(part)]
            elif origin is dict and not _is_branch(part):
                return Spot(inner[1])
            elif origin in (list, tuple) and isinstance(part, int):
                return Spot(inner[0])
        return None


_LIMITS = (
    (limits.Gt, "above"),
    (limits.Ge, "least"),
    (limits.Lt, "below"),
    (limits.Le, "most"),
)
_ATTRIBUTE = {"above": "gt", "least": "ge", "below": "lt", "most": "le"}


def _is_branch(part: str | int) -> bool:
    return isinstance(part, str) and (part in {"str", "int", "float"} or "[" in part)


def _walk(model: type[BaseModel], loc: Sequence[str | int]) -> tuple[Spot, list[str | int]]:
    """The deepest place that the section knows on this way, and its path in the file."""
    spot, path = Spot(model), list[str | int]()
    for part in loc:
        inner = spot.below(part)
        if inner is not None:
            spot = inner
            path.append(part)
    return spot, path


def _members(annotation: Any) -> tuple[Any, ...]:
    """The branches of a union, or the one type that it is."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(part for branch in get_args(annotation) for part in _members(branch))
    return (annotation,)


def _beside(annotation: Any) -> Iterator[Any]:
    """What stands beside the type in `Annotated[T, a, b]`, of every branch of a union."""
    if get_origin(annotation) is Annotated:
        for entry in annotation.__metadata__:
            yield from getattr(entry, "metadata", None) or (entry,)
    elif get_origin(annotation) in (Union, UnionType):
        for branch in get_args(annotation):
            yield from _beside(branch)


def spots(section: type[BaseModel]) -> dict[str, Spot]:
    """What a section says of each of its keys."""
    return {
        name: Spot(field.annotation, tuple(field.metadata))
        for name, field in section.model_fields.items()
    }
