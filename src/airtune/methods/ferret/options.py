"""The section `ferret` of an experiment, and the options of its codec where it stands alone."""

from typing import Literal

from pydantic import Field

from airtune.methods.options import BandwidthSection, DownlinkSection
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


class FerretSection(DownlinkSection, BandwidthSection, SeededOptions):
    downlink: Literal["model", "coefficients"] = Field(
        "model",
        description="model (whole, in every round) | coefficients (the sums that a client lacks; "
        "with shared: true)",
    )


CODEC_OPTIONS = tuple(SeededOptions.model_fields)
