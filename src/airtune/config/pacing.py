"""The section `pacing` of an experiment: when the server makes a step."""

from typing import Literal

from pydantic import Field, model_validator

from airtune.section import Section, refused


class StalenessSection(Section):
    kind: Literal["polynomial", "hinge", "constant"] = Field(
        "polynomial",
        description="polynomial: (1 + a)^-exponent | hinge: 1 up to threshold, then 1 / (1 + slope "
        "(a - threshold)) | constant: 1, for an update that is a steps old",
    )
    exponent: float = Field(0.5, ge=0, description="of the polynomial rule")
    threshold: int = Field(4, ge=0, description="of the hinge rule [server steps]")
    slope: float = Field(0.5, ge=0, description="of the hinge rule")


class PacingSection(Section):
    """When the server makes a step; but for synchronous rounds, `rounds` counts server steps."""

    kind: Literal["synchronous", "buffered", "asynchronous", "semi"] = Field(
        "synchronous",
        description="synchronous: rounds | buffered: a step after `buffer` updates | asynchronous: "
        "after each | semi: every period_s",
    )
    buffer: int | None = Field(
        None, ge=1, description="updates of a buffered step; null: half of the tasks under way"
    )
    period_s: float | None = Field(None, gt=0, description="between semi-asynchronous steps [s]")
    staleness: StalenessSection = Field(
        default_factory=StalenessSection, description="what an older update counts"
    )
    mixing_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="factor of every update's share beside staleness; null: updates of a step over "
        "tasks under way, and 1 with semi",
    )
    most_staleness: int | None = Field(
        None, ge=0, description="an update that is more steps old is dropped; null: never"
    )
    sharing: Literal["fixed", "processor"] = Field(
        "fixed",
        description="of the uplink: fixed (a client keeps its share until its update is there) | "
        "processor (equal shares of those that send at a moment)",
    )

    @model_validator(mode="after")
    def _check_period(self) -> "PacingSection":
        if self.kind == "semi" and self.period_s is None:
            raise refused("period_s", None, "a number above 0 [s] with pacing.kind: semi")
        return self
