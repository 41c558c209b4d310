"""Ranges of numbers: one statement of an interval, for a field, for columns, and for messages."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from airtune.errors import InputError
from airtune.quantities import FloatArray


@dataclass(frozen=True)
class Range:
    """An interval of numbers, as a part of a field's annotation: `Annotated[float, Range(...)]`.

    Attributes:
        above, least, below, most: its limits; None where there is none.
        whole: whole numbers alone.
        smallest, largest: magnitudes that a number has at least where it is not 0, and at most.
        infinity: the infinity that is allowed too, -1 or 1; 0 for none.
        note: what a message adds to the interval.
    """

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None
    whole: bool = False
    smallest: float = 0.0
    largest: float = float(np.finfo(np.float64).max)
    infinity: int = 0
    note: str = ""

    def holds(self, values: ArrayLike) -> Any:
        """Elementwise; NaN is in no range."""
        v = np.asarray(values, dtype=np.float64)
        size = np.abs(v)
        inside = (size == 0) | ((size >= self.smallest) & (size <= self.largest))
        if self.infinity:
            inside |= v == self.infinity * np.inf
        inside &= v > self.above if self.above is not None else True
        inside &= v >= self.least if self.least is not None else True
        inside &= v < self.below if self.below is not None else True
        inside &= v <= self.most if self.most is not None else True
        return inside & (np.isinf(v) | (v % 1 == 0)) if self.whole else inside

    @property
    def words(self) -> str:
        """What is allowed.

        >>> Range(above=0).words, Range(least=1, most=256, whole=True).words
        ('a number above 0', 'a whole number from 1 to 256')
        """
        kind = "a whole number" if self.whole else "a number"
        low, high = self.least, self.most
        if low is not None and high is not None:
            said = f"{kind} from {self._shown(low)} to {self._shown(high)}"
        elif low is not None and self.below is not None:
            said = f"{kind} from {self._shown(low)} to below {self._shown(self.below)}"
        else:
            limits = (
                ("above", self.above),
                ("of at least", low),
                ("below", self.below),
                ("of at most", high),
            )
            parts = [f"{word} {self._shown(at)}" for word, at in limits if at is not None]
            plain = kind if self.whole or self.note else "a finite number"
            said = f"{kind} {' and '.join(parts)}" if parts else plain
        return said + self.note

    def refusal(self, value: Any) -> str:
        """What is allowed, with the limits of magnitude where those are the reason."""
        if not is_number(value):
            # A whole number may be too large for a float.
            too_large = isinstance(value, int) and not isinstance(value, bool)
            return f"{self.words}, of magnitude {self.largest:g} at most" * too_large or self.words
        size = abs(float(value))
        if np.isfinite(size) and size > self.largest:
            return f"{self.words}, of magnitude {self.largest:g} at most"
        if 0 < size < self.smallest:
            return f"{self.words}, of magnitude {self.smallest:g} at least where it is not 0"
        return self.words

    def _shown(self, limit: float) -> str:
        return str(int(limit)) if self.whole else f"{limit:g}"

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        inner = core_schema.float_schema(allow_inf_nan=True) if self.infinity else handler(source)
        return core_schema.no_info_after_validator_function(self._checked, inner)

    def _checked(self, value: Any) -> Any:
        if not is_number(value) or not self.holds(value):
            raise PydanticCustomError("out_of_range", "out of range")
        return value

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | self.json_schema()

    def json_schema(self) -> JsonSchemaValue:
        """The range as JSON Schema has it."""
        own = {
            "exclusiveMinimum": self.above,
            "minimum": self.least,
            "exclusiveMaximum": self.below,
            "maximum": self.most,
        }
        if self.largest < 1e300:
            if self.above is None and self.least is None and self.infinity >= 0:
                own["minimum"] = -self.largest
            if self.below is None and self.most is None and self.infinity <= 0:
                own["maximum"] = self.largest
        kind = {"type": "integer" if self.whole else "number"}
        return kind | {key: limit for key, limit in own.items() if limit is not None}


def is_number(value: Any) -> bool:
    """A number as YAML or numpy gives it; True is none, nor is 10**400, which no float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def number_list(value: Any, label: str, allowed: Range, length: int | None = None) -> FloatArray:
    """A list of numbers in a range; with a length, one number stands for all."""
    if is_number(value) and length is not None:
        value = [value] * length
    if not isinstance(value, list | tuple | np.ndarray) or not len(value):
        raise InputError(label, value, "a list of numbers")
    for entry in value:
        if not is_number(entry):
            raise InputError(label, entry, allowed.words)
        if not allowed.holds(entry):
            raise InputError(label, entry, allowed.refusal(entry))
    if length is not None and len(value) != length:
        raise InputError(label, f"a list of {len(value)}", f"one number or a list of {length}")
    return np.array(value, dtype=np.float64)


@dataclass(frozen=True)
class Numbers:
    """A list of numbers in one range as a part of an annotation: `Annotated[Any, Numbers(...)]`.

    `one`: one number may stand for all of them; how many there are, the reader knows.
    """

    each: Range
    one: bool = False

    @property
    def words(self) -> str:
        """What is allowed."""
        return "one number or a list of numbers" if self.one else "a list of numbers"

    def read(self, value: Any, label: str) -> FloatArray:
        """The numbers [length]; one number has no axis. InputError names the label."""
        if self.one and is_number(value):
            return number_list([value], label, self.each).reshape(())
        return number_list(value, label, self.each)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._checked)

    def _checked(self, value: Any) -> Any:
        try:
            return self.read(value, "")
        except InputError as error:
            told = ("", error.value, error.allowed, error.remedy)
            raise PydanticCustomError("refused", "refused", {"error": told}) from None

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        one = self.each.json_schema()
        several: JsonSchemaValue = {"type": "array", "items": one, "minItems": 1}
        return {"anyOf": [one, several]} if self.one else several
