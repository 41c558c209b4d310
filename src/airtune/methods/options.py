"""Options that several methods and parts share."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, create_model

from airtune.section import Section


class NoOptions(Section):
    """A method or a part without options."""


class BandwidthSection(Section):
    bandwidth: Literal["minmax", "equal", "random"] = Field(
        "minmax", description="minmax (least round latency) | equal | random"
    )


class UplinkSection(Section):
    uplink_dtype: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32", description="updates on the air; int8 rounds at random"
    )


class DownlinkSection(Section):
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast adapter on the air"
    )


class DenseSection(DownlinkSection, UplinkSection, BandwidthSection):
    """Methods that divide the band by a rule and send every coordinate they train."""


class NumberOptions(Section):
    """Codecs that send numbers in one format."""

    dtype: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32", description="of a number on the air"
    )


def options_of(section: type[Section], *names: str) -> type[Section]:
    """These keys of a method's section, with their checks and defaults."""
    fields: Any = {
        name: (section.model_fields[name].annotation, section.model_fields[name]) for name in names
    }
    return create_model(f"{section.__name__}Part", __base__=Section, **fields)


def given(options: Section, names: Sequence[str]) -> dict[str, Any]:
    """These options, from a part's own or from a whole section of its method."""
    return {name: getattr(options, name) for name in names}
