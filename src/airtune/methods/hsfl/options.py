"""The section `hsfl` of an experiment."""

from typing import Literal

from pydantic import Field

from airtune.methods.split_options import (
    CutFormatsSection,
    HalvesSection,
    ServersSection,
    SidesSection,
)
from airtune.section import Section


class CutsSection(Section):
    """Who takes which cut."""

    cuts: Literal["own", "common"] = Field(
        "own", description="own (every client its own cut) | common (one cut for all)"
    )
    split_point: int | None = Field(None, ge=1, description="blocks on every client; null: planned")


class HsflSection(ServersSection, CutFormatsSection, SidesSection, HalvesSection, CutsSection):
    unusual_values: list[str] = Field(
        [], description="keys of this section that are meant although outside their usual range"
    )
