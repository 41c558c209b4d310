"""The section `sampled_lora` of an experiment."""

from typing import Literal

from pydantic import Field

from airtune.methods.options import DownlinkSection, UplinkSection

PLANNER_OPTIONS = ("participation", "least_rank", "alignment", "estimate_norms")


class SampledLoraSection(DownlinkSection, UplinkSection):
    participation: Literal["planned", "uniform", "all"] = Field(
        "planned",
        description="probabilities, ranks and deadline planned | one probability for all | "
        "all clients in every round",
    )
    least_rank: int | None = Field(
        None,
        ge=1,
        description="least number of random ranks that a client may train; null: all ranks of all",
    )
    alignment: float | None = Field(
        None,
        ge=0,
        le=1,
        description="mean cosine of the clients' updates; null: measured round by round, at first "
        "0.5",
    )
    estimate_norms: bool = Field(
        True, description="norms of the updates are measured; false: all clients' are taken alike"
    )
