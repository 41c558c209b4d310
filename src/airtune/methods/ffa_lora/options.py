"""The section `ffa_lora` of an experiment."""

from typing import Literal

from pydantic import Field

from airtune.methods.options import DenseSection


class FfaLoraSection(DenseSection):
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast factor B on the air"
    )
