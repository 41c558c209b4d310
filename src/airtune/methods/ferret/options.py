"""The section `ferret` of an experiment, and the options of its codec where it stands alone."""

from typing import Literal

from pydantic import Field

from airtune.section import Section


class SeededOptions(Section):
    directions: int = Field(
        200, ge=1, le=100_000_000, description="coefficients of an update, over all its blocks"
    )
    blocks: int = Field(8, ge=1, le=65_536, description="equal parts of the update")
    distribution: Literal["orthonormal", "gaussian"] = Field(
        "orthonormal",
        description="orthonormal (rows of a random Hadamard matrix) | gaussian (the paper's)",
    )
    allocation: Literal["best", "norm", "uniform"] = Field(
        "best", description="of coefficients over blocks: best (least error) | norm | uniform"
    )
    shared: bool = Field(False, description="all clients of a round have the same directions")
    shrink: bool = Field(
        True, description="the estimate of least error; false: the unbiased one, far longer"
    )


class FerretSection(SeededOptions):
    bandwidth: Literal["minmax", "equal", "random"] = Field(
        "minmax", description="minmax (least round latency) | equal | random"
    )
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast on the air, which is whole"
    )


CODEC_OPTIONS = tuple(SeededOptions.model_fields)
