"""The section `lora_fair` of an experiment."""

from pydantic import Field

from airtune.methods.options import DenseSection


class LoraFairSection(DenseSection):
    ridge: float = Field(
        0.01,
        ge=0,
        description="weight of the correction's size, relative to the mean square of A's singular "
        "values; 0: the nearest product that A's rows allow",
    )
