"""What every section of the experiment file has in common."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """Keys are closed: a mistyped key is an error, never ignored; nor is a truth value a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name is not None:
            kind = cls.model_fields[info.field_name].annotation
            kinds = get_args(kind) or (kind,)
            if bool not in kinds and not {int, float}.isdisjoint(kinds):
                whole = float not in kinds
                raise PydanticCustomError("int_type" if whole else "float_type", "a number")
        return value
