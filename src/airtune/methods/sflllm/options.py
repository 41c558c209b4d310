"""The section `sflllm` of an experiment."""

from typing import Literal

from pydantic import Field

from airtune.methods.split_options import CutFormatsSection, ServersSection, SidesSection
from airtune.section import Section


class CutsSection(Section):
    """Who takes which cut."""

    solver: Literal[
        "joint",
        "greedy",
        "random",
        "random-subchannels",
        "random-power",
        "random-split-point",
        "random-rank",
    ] = Field("joint", description="as in airtune plan: joint | greedy | random | random-...")
    split_point: int | None = Field(
        None, ge=1, description="blocks on every client; null: planned in every round"
    )
    split_points: Literal["common", "own"] = Field(
        "common", description="common (one cut for all) | own (every client its own)"
    )


class SflllmSection(ServersSection, CutFormatsSection, SidesSection, CutsSection):
    rounds_table: str | dict[int, float] | None = Field(
        None,
        description="rounds to the target by rank, {4: 60, 8: 50} or the file of airtune "
        "rank-search --out: adapter.rank is then chosen before round 1",
    )
    accuracy_a: float | None = Field(
        None, gt=0, description="FedsLLM's a: local_steps and rounds follow from a local accuracy"
    )
    accuracy_v: float | None = Field(
        None, gt=0, description="FedsLLM's v: local steps per halving of the local error"
    )
    unusual_values: list[str] = Field(
        [], description="keys of this section that are meant although outside their usual range"
    )


PLANNER_OPTIONS = ("solver", "split_point", "split_points")
