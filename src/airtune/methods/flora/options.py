"""The section `flora` of an experiment."""

from pydantic import Field

from airtune.methods.options import BandwidthSection, UplinkSection


class FloraSection(UplinkSection, BandwidthSection):
    rank_min: int | None = Field(
        None,
        ge=1,
        description="rank of the slowest device, the fastest gets adapter.rank; null: all get it",
    )
