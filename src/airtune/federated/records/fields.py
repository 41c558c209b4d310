"""What a record consists of: fields with their meaning and unit, and JSON objects made of them.

A field is declared once, where its value is made, with a docstring that the documents quote:

    latency_s: Annotated[float, Quantity("latency", "s")]

Reports take words and units from there.
"""

import json
from collections import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, Self, get_args, get_origin, get_type_hints

DIMENSIONLESS = "1"
COUNT = "count"
"""Unit of a list that a report shows as its length; other lists are shown as their mean."""
_JSON: Mapping[Any, tuple[type, ...]] = {
    int: (int,),
    float: (float, int),
    str: (str,),
    NoneType: (NoneType,),
    abc.Sequence: (list,),
    abc.Mapping: (dict,),
}
"""The types as which JSON reads a field's type."""


class Shown(NamedTuple):
    """The unit in which a quantity is displayed; `scale` turns a recorded value into it."""

    unit: str
    scale: float = 1.0


_SHOWN = {
    "Hz": Shown("MHz", 1e-6),
    "bit/s": Shown("Mbit/s", 1e-6),
    "bit": Shown("MB", 1e-6 / 8),
    "B": Shown("MB", 1e-6),
    "FLOP": Shown("GFLOP", 1e-9),
    "W/Hz": Shown("nW/Hz", 1e9),
}


@dataclass(frozen=True)
class Quantity:
    """What a field means.

    Attributes:
        label: its name in words, short. unit: of the recorded value; `DIMENSIONLESS` for a plain
        number, empty for what is none. display: the unit that is displayed, where it is not the
        usual one for `unit`. decision: whether a plan decides it. divides: whether that decision
        divides something fixed: its mean over clients has no meaning. split: whether only split
        models have it. figure: title of the report's figure that shows it together with others.
        comparable: whether it means something beside the value of another run. order: its place in
        the report among what is shown together.
    """

    label: str
    unit: str = ""
    display: Shown | None = None
    decision: bool = False
    divides: bool = False
    split: bool = False
    figure: str = ""
    comparable: bool = True
    order: int = 100

    @property
    def shown(self) -> Shown:
        """The unit that is displayed."""
        return self.display or _SHOWN.get(self.unit, Shown(self.unit))

    @property
    def axis(self) -> str:
        """`bandwidth [MHz]`; a number without a unit is only named."""
        return self.label if self.unit == DIMENSIONLESS else f"{self.label} [{self.shown.unit}]"

    @property
    def title(self) -> str:
        """The label with a capital letter."""
        return self.label[:1].upper() + self.label[1:]


def quantities(declared: type) -> Mapping[str, Quantity]:
    """The declared fields of a dataclass, in order."""
    return {name: kind.quantity for name, kind in _kinds(declared).items()}


class _Kind(NamedTuple):
    quantity: Quantity
    types: frozenset[type]
    optional: bool


@cache
def _kinds(declared: type) -> Mapping[str, _Kind]:
    hints = get_type_hints(declared, include_extras=True)
    annotated = {part.name: (part, get_args(hints[part.name])) for part in fields(declared)}
    return {
        name: _Kind(hint[1], frozenset(_types(hint[0])), part.default is None)
        for name, (part, hint) in annotated.items()
        if len(hint) == 2 and isinstance(hint[1], Quantity)
    }


def _types(hint: Any) -> Iterator[type]:
    for part in get_args(hint) if get_origin(hint) is UnionType else (hint,):
        yield from _JSON[get_origin(part) or part]


@dataclass(frozen=True, kw_only=True, eq=False)
class Record(Mapping[str, Any]):
    """A JSON object of `rounds.jsonl`, with typed attributes.

    It is also the mapping that the file has, for scripts: `record["latency_s"]`. A field with a
    default is left out there while it is None. `others` are keys that this version does not have.
    """

    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, found: Any) -> Self:
        """From the object of a line; keys of later versions are None. Raises ValueError."""
        if not isinstance(found, dict):
            raise ValueError("an entry is no object")
        kinds = _kinds(cls)
        values: dict[str, Any] = {name: found.get(name) for name in kinds}
        for (name, value), kind in zip(values.items(), kinds.values(), strict=True):
            if type(value) not in kind.types:
                raise ValueError(f"{name} is {json.dumps(value):.40}")
        unknown = found.keys() - kinds.keys()
        values["others"] = {key: found[key] for key in found if key in unknown} if unknown else {}
        # Past the frozen constructor, which takes longer than reading the JSON.
        record = object.__new__(cls)
        record.__dict__.update(values)
        return record

    def _written(self) -> dict[str, Any]:
        written = {
            name: value
            for name, kind in _kinds(type(self)).items()
            if (value := getattr(self, name)) is not None or not kind.optional
        }
        return {**written, **self.others}

    def __getitem__(self, key: str) -> Any:
        return self._written()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._written())

    def __len__(self) -> int:
        return len(self._written())
