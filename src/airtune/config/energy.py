"""The section `energy` of an experiment."""

from typing import Annotated

from pydantic import Field

from airtune.ranges import Range
from airtune.section import Section

_WEIGHT = Range(least=0, infinity=1, note=" of at least 0 (.inf: energy alone)")


class EnergySection(Section):
    """CPU speed and transmit power of clients; all null: full speed and power."""

    weight_s_per_j: Annotated[float, _WEIGHT] | None = Field(
        None,
        description="seconds of latency that a joule of clients' energy is worth; speed, power and "
        "bandwidth are planned for it (.inf: the least energy within deadline_s)",
    )
    budget_j: float | None = Field(
        None, gt=0, description="limit of the planned energy of all clients in a round [J]"
    )
    client_budget_j: float | None = Field(
        None, gt=0, description="limit of the planned energy of each client in a round [J]"
    )

    @property
    def is_planned(self) -> bool:
        """Whether any of them is given."""
        return (self.weight_s_per_j, self.budget_j, self.client_budget_j) != (None, None, None)
