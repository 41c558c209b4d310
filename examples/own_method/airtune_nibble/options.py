"""The section `nibble` of an experiment."""

from typing import Literal

from pydantic import Field

from airtune.section import Section


class NibbleSection(Section):
    bits: Literal[4, 8] = Field(4, description="bits of a number of the update: 4 | 8")
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast adapter on the air"
    )
