"""The section `fedkseed` of an experiment."""

from pydantic import Field

from airtune.methods.options import BandwidthSection


class FedkseedSection(BandwidthSection):
    seeds: int = Field(
        1024, ge=1, le=1_048_576, description="candidate directions of the run, standard normal"
    )
    epsilon: float = Field(
        1e-3, gt=0, le=1, description="parameters are moved by so much of a direction for a loss"
    )
